"""Edit a scene of `nest-dynamic` by the steps of a JSON file, and draw it while it moves, a row each.

python examples/06_edit_a_moving_scene.py --load-config RUN/config.yml --output edited.png

The last edit is also written beside the image, for `--pipeline.model.edit` or the `edit` in a config.yml.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.selection import Box, Copies
from nest_nerfstudio.edits.steps import Duplicate, Keep, Move, Recolor


def main(load_config: Path, output: Path = Path("edited.png"), columns: int = 6) -> None:
    """Draw the scene as it is, and under each edit, at `columns` times within and beyond the clip."""
    _, pipeline, _, _ = eval_setup(load_config, test_mode="test")
    model, camera = pipeline.model.eval(), pipeline.datamanager.train_dataset.cameras[0:1]
    positions = model.latent().translations
    low, high = positions.amin(0), positions.amax(0)
    size, middle = (high - low).tolist(), positions.median(0).values.tolist()
    upper = Box((low[0].item(), low[1].item(), middle[2]), tuple(high.tolist()))
    copy = Copies((1,))
    double = SceneEdit(
        (
            Duplicate((0.7 * max(size), 0.0, 0.0)),
            Recolor(hue=0.45, tokens=copy),
            Move(rotation=(0.0, 0.0, math.pi / 2), tokens=copy),
        )
    )
    edits = {
        "as it is": SceneEdit(),
        "its upper half in another colour": SceneEdit((Recolor(hue=0.3, tokens=upper),)),
        "its upper half alone": SceneEdit((Keep(upper),)),
        "doubled, the copy in another colour and turned": double,
    }
    rows = []
    for model.edit in edits.values():
        images = []
        for time in torch.linspace(0, 1.5, columns).tolist():
            camera.times = torch.full((1, 1), time)
            images.append(model.get_outputs_for_camera(camera.to(model.device))["rgb"].cpu())
        rows.append(torch.cat(images, dim=1))
    Image.fromarray((255 * torch.cat(rows)).byte().numpy()).save(output)
    double.save(output.with_suffix(".json"))
    print(f"From top to bottom, in {output}: " + "; ".join(edits))


if __name__ == "__main__":
    tyro.cli(main)
