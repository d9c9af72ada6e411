"""Train `nest-dynamic` from Python and draw the scene past its end.

nest-data toy --output toy && python examples/03_train_and_render.py --data toy --output strip.png
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
import tyro
from nerfstudio.configs.method_configs import all_methods
from PIL import Image


def main(
    data: Path,
    output: Path = Path("strip.png"),
    runs: Path = Path("outputs"),
    steps: int = 2000,
    times: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5),
) -> None:
    """Train, then draw one row of images at `times`: colour above, speed below; all from one camera."""
    config = deepcopy(all_methods["nest-dynamic"])
    config.data = config.pipeline.datamanager.data = data
    config.output_dir, config.vis, config.max_num_iterations = runs, "tensorboard", steps
    config.set_timestamp()
    config.save_config()
    trainer = config.setup()
    trainer.setup()
    trainer.train()

    model = trainer.pipeline.model.eval()
    camera = trainer.pipeline.datamanager.train_dataset.cameras[0:1].to(model.device)
    columns = []
    for time in times:
        camera.times = torch.full((1, 1), time, device=model.device)
        outputs = model.get_outputs_for_camera(camera)
        speed = outputs["motion"].clamp(0, 3).expand_as(outputs["rgb"]) / 3
        columns.append(torch.cat([outputs["rgb"], speed]).cpu())
    Image.fromarray((255 * torch.cat(columns, dim=1)).byte().numpy()).save(output)
    print(f"Times {times} are in {output}")


if __name__ == "__main__":
    tyro.cli(main)
