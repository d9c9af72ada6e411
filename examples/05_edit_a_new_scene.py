"""Show a scene that `nest-prior` was not trained on, from a few pictures of it, a column for each state.

python examples/05_edit_a_new_scene.py --load-config RUN/config.yml --output edits.png
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from nest_nerfstudio.edits.actions import apply_edit
from nest_nerfstudio.models.gaussian_model import composite
from nest_nerfstudio.states import SunSky


def main(
    load_config: Path, output: Path = Path("edits.png"), scene: int = 0, num_views: int = 4, rows: int = 3
) -> None:
    """Encode `num_views` pictures of a scene that was held out, and draw it from cameras that took others."""
    _, pipeline, _, _ = eval_setup(load_config, test_mode="test")
    model, data = pipeline.model.eval(), pipeline.datamanager
    sample = data.eval_sample(data.held_out[scene], num_views)
    seen_as, views = sample.edit, sample.targets[0][1].select(slice(rows))

    with torch.no_grad():
        latent = model.encoder(sample.context)
        refined = model.refine(latent, sample.context)
    evening = SunSky(direction=(1.0, 0.3, -0.5), sun=3.5, ambient=0.2)
    states = {
        "encoded": latent,
        "refined on the same pictures": refined,
        "in the evening": apply_edit(refined, replace(seen_as, light=evening), seen_as),
        "in another colour": apply_edit(refined, replace(seen_as, hue=seen_as.hue + 0.4), seen_as),
        "turned by a quarter": apply_edit(refined, replace(seen_as, yaw=seen_as.yaw + math.pi / 2), seen_as),
        "the half of it on one side": refined.select(refined.translations[:, 0] > 0),
    }
    with torch.no_grad():
        drawn = [model.render(state, views).rgb.clamp(0, 1) for state in states.values()]
    columns = [torch.cat(list(column)) for column in (composite(views, model.backdrop), *drawn)]
    pictures = torch.cat(columns, 1)
    Image.fromarray((255 * pictures).byte().cpu().numpy()).save(output)
    print(f"From left to right, in {output}: as it is; " + "; ".join(states))


if __name__ == "__main__":
    tyro.cli(main)
