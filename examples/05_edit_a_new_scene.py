"""Show a scene that `nest-prior` was not trained on, from a few images of it, a column for each state.

python examples/05_edit_a_new_scene.py --load-config RUN/config.yml --output edits.png
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from PIL import Image

from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.steps import Move, Recolor, Relight, Step
from nest_nerfstudio.states import SunSky
from nest_nerfstudio.types import SceneLatent


def main(
    load_config: Path, output: Path = Path("edits.png"), scene: int = 0, num_views: int = 4, rows: int = 3
) -> None:
    """Encode `num_views` images of a held-out scene, and draw it from the cameras of others."""
    _, pipeline, _, _ = eval_setup(load_config, test_mode="test")
    model, data = pipeline.model.eval(), pipeline.datamanager
    sample = data.eval_sample(data.held_out[scene], num_views)
    views = sample.targets[0][1].select(slice(rows))

    with torch.no_grad():
        latent = model.encoder(sample.context)
        refined = model.refine(latent, sample.context)

    def edited(step: Step) -> SceneLatent:
        return SceneEdit((step,)).apply(refined, model.field)

    evening = SunSky(direction=(1.0, 0.3, -0.5), sun=3.5, ambient=0.2)
    states = {
        "encoded": latent,
        "refined on the same images": refined,
        "in the evening": edited(Relight(light=evening)),
        "in another colour": edited(Recolor(hue=0.4)),
        "turned by a quarter": edited(Move(rotation=(0.0, 0.0, math.pi / 2), about=(0.0, 0.0, 0.0))),
        "the half of it on one side": refined.select(refined.translations[:, 0] > 0),
    }
    with torch.no_grad():
        drawn = [model.render(state, views).rgb.clamp(0, 1) for state in states.values()]
    columns = [
        torch.cat(list(column))
        for column in (views.over(model.shown_background(views.alphas is not None)), *drawn)
    ]
    images = torch.cat(columns, 1)
    Image.fromarray((255 * images).byte().cpu().numpy()).save(output)
    print(f"From left to right, in {output}: as it is; " + "; ".join(states))


if __name__ == "__main__":
    tyro.cli(main)
