"""Write edited runs beside a run of either method, and draw each by nerfstudio's own loader, a row each.

python examples/07_edited_run.py --load-config RUN/config.yml --edits examples/edits/turned_and_doubled.json

`nest-edit RUN EDIT.json` does the same for one edit; ns-viewer, ns-render, ns-eval and nest-export open the
new runs too.
"""

from __future__ import annotations

from pathlib import Path

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from nest_nerfstudio.scripts.edit import edit_run

HERE = Path(__file__).parent


def main(
    load_config: Path,
    edits: tuple[Path, ...] = (HERE / "edits" / "turned_and_doubled.json",),
    output: Path = Path("edited_runs.png"),
    columns: int = 6,
) -> None:
    """Draw the run and its edited siblings at `columns` times within and beyond the clip."""
    runs = [load_config, *(edit_run(load_config, edit, edit.stem, overwrite=True) for edit in edits)]
    rows = []
    for run in runs:
        _, pipeline, _, _ = eval_setup(run, test_mode="inference")
        model, camera = pipeline.model, pipeline.datamanager.train_dataset.cameras[0:1].to(pipeline.device)
        images = []
        for time in torch.linspace(0, 1.5, columns).tolist():
            camera.times = torch.full((1, 1), time, device=pipeline.device)
            images.append(model.get_outputs_for_camera(camera)["rgb"].cpu())
        rows.append(torch.cat(images, dim=1))
    Image.fromarray((255 * torch.cat(rows)).byte().numpy()).save(output)
    print(f"From top to bottom, in {output}: " + "; ".join(str(run.parent) for run in runs))


if __name__ == "__main__":
    tyro.cli(main)
