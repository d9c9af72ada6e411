"""Show new motion made from what a run of `nest-dynamic` learned, a row each.

python examples/04_new_motion.py --load-config RUN/config.yml --output motions.png
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from nest_nerfstudio.dynamics.motions import amplify, blend, loop, play, retime, sample


def main(load_config: Path, output: Path = Path("motions.png"), columns: int = 7, seed: int = 0) -> None:
    """Draw each motion at `columns` times of the clip, all from one camera."""
    _, pipeline, _, _ = eval_setup(load_config, test_mode="test")
    model, camera = pipeline.model.eval(), pipeline.datamanager.train_dataset.cameras[0:1]
    latent, dynamics = model.latent(), model.dynamics
    learned = play(latent, dynamics)
    motions = {
        "learned": learned,
        "backwards, twice as fast": retime(learned, speed=-2.0),
        "half as large again": play(amplify(latent, dynamics, 1.5), dynamics),
        "halfway to a quarter of the clip later": blend(learned, retime(learned, offset=0.25), 0.5),
        "its first half, looped": loop(learned, 0.0, 0.5, fade=0.1),
        "another one": play(sample(latent, dynamics, 0.4, torch.Generator().manual_seed(seed)), dynamics),
    }
    rows = []
    for model.shown_motion in motions.values():
        pictures = []
        for time in torch.linspace(0, 1, columns).tolist():
            camera.times = torch.full((1, 1), time)
            pictures.append(model.get_outputs_for_camera(camera.to(model.device))["rgb"].cpu())
        rows.append(torch.cat(pictures, dim=1))
    Image.fromarray((255 * torch.cat(rows)).byte().numpy()).save(output)
    print(f"From top to bottom, in {output}: " + "; ".join(motions))


if __name__ == "__main__":
    tyro.cli(main)
