"""Film an inverted scene while the sun goes down; above, as it was seen.

ns-train nest-invert --data VIEWS --pipeline.model.prior PRIOR/config.yml
python examples/08_evening_light.py --load-config RUN/config.yml --output evening.png

`nest-edit RUN examples/edits/evening.json` sets one evening light for all tools.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.steps import Recolor, Relight
from nest_nerfstudio.states import SunSky


def main(load_config: Path, output: Path = Path("evening.png"), columns: int = 6) -> None:
    """Draw `columns` of the run's cameras, as the scene was seen, and with the sun lower at each."""
    pipeline: Any = eval_setup(load_config, test_mode="test")[1]
    model, cameras = pipeline.model, pipeline.datamanager.train_dataset.cameras
    images = []
    for i in range(columns):
        camera = cameras[i * len(cameras) // columns : i * len(cameras) // columns + 1].to(pipeline.device)
        share = (i + 1) / columns
        sun = SunSky(
            direction=(math.cos(share), math.sin(share), -1.2 * (1 - share) - 0.1),
            sun=3.0,
            ambient=0.6 - 0.5 * share,
        )
        evening = SceneEdit((Relight(light=sun), Recolor(gain=(1.0, 1 - 0.2 * share, 1 - 0.5 * share))))
        column = []
        for edit in (None, evening):
            model.edit = edit
            column.append(model.get_outputs_for_camera(camera)["rgb"].cpu())
        images.append(torch.cat(column))
    Image.fromarray((255 * torch.cat(images, dim=1)).byte().numpy()).save(output)


if __name__ == "__main__":
    tyro.cli(main)
