"""Show new motion made from what a run of `nest-dynamic` learned, a row each.

python examples/04_new_motion.py --load-config RUN/config.yml --output motions.png
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.steps import Amplify, Loop, Retime, sample_motion


def main(load_config: Path, output: Path = Path("motions.png"), columns: int = 7, seed: int = 0) -> None:
    """Draw each motion at `columns` times of the clip, all from one camera."""
    _, pipeline, _, _ = eval_setup(load_config, test_mode="test")
    model = pipeline.model.eval()
    views = cameras_to_views(pipeline.datamanager.train_dataset.cameras[0:1].to(model.device))
    latent, generator = model.latent(), torch.Generator().manual_seed(seed)

    def edited(step):
        return SceneEdit((step,)).apply(latent, model.field)

    with torch.no_grad():
        motions = {
            "learned": latent,
            "backwards, twice as fast": edited(Retime(speed=-2.0)),
            "half as large again": edited(Amplify(1.5)),
            "its first half, looped": edited(Loop(0.0, 0.5, fade=0.1)),
            "another one": sample_motion(latent, 0.4, 2 * float(model.flow.vector_field.scale[0]), generator),
        }
        rows = []
        for motion in motions.values():
            scene, images = model.decode(motion, model.flow), []
            for time in torch.linspace(0, 1, columns).tolist():
                background = model.shown_background(bool(model.has_alpha))
                images.append(model.rasterize(scene.gaussians_at(time), views, background).rgb[0].clamp(0, 1))
            rows.append(torch.cat(images, dim=1))
    Image.fromarray((255 * torch.cat(rows)).byte().cpu().numpy()).save(output)
    print(f"From top to bottom, in {output}: " + "; ".join(motions))


if __name__ == "__main__":
    tyro.cli(main)
