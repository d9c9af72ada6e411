"""What edits do to renderings: exactness on any run, and ground truth on inverted scenes of a prior.

python benchmarks/edits.py exactness --load-config RUN/config.yml
python benchmarks/edits.py truth --load-config PRIOR/config.yml
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from inversion import held_out, load, samples
from results import record
from torch import Tensor

from nest_nerfstudio.edits.base import Step
from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.steps import Amplify, Move, Recolor, Relight, Retime, Scale, ShiftPhase, Turn
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.models.camera_search import cameras_around
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.inversion import InversionConfig, invert
from nest_nerfstudio.models.nest_prior import NestPriorModel
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.states import Edit
from nest_nerfstudio.types import SceneLatent, TimeMap, Views

FACTORS: tuple[tuple[Step, frozenset[str]], ...] = (
    (Move((0.3, -0.2, 0.1), (0.2, 0.5, -0.4)), frozenset({"quats", "translations"})),
    (Turn(75.0), frozenset({"quats", "translations"})),
    (Scale(1.5), frozenset({"translations", "sizes", "motion.modes"})),
    (Recolor(0.3, (1.2, 0.8, 1.0)), frozenset({"appearance"})),
    (Relight((0.0, 0.0, 1.0), 1.3), frozenset({"light"})),
    (Retime(0.5, 0.25), frozenset({"motion.time_map"})),
    (ShiftPhase(0.3), frozenset({"motion.phase"})),
    (Amplify(1.4), frozenset({"motion.modes"})),
)
"""Steps, and the parts of Z that they may change."""


@torch.no_grad()
def exactness(load_config: Path, elements: int = 20, size: int = 200) -> None:
    """Renderings after an edit by g against those of cameras moved by g⁻¹; what steps change; inverses.

    Args:
        load_config: config.yml of a run of any of our methods.
        elements: number of random g.
        size: pixels of the images, each way.
    """
    model = load_run(load_config).model.eval()
    method = load_config.parts[-3]
    prior, data = load(load_config) if isinstance(model, NestPriorModel) else (None, None)
    if prior is not None:
        model = prior.model
    latent = model.latent() if prior is None else model.encoder(next(samples(data, 4, 1)).context)
    figures = {"camera against edit, dB": _least_psnr(model, latent, elements, size)}
    largest = 0.0
    for step, allowed in FACTORS:
        edit = SceneEdit((step,))
        try:
            edited = edit.apply(latent, model.field)
        except EditError as error:
            print(f"{step.name}: not carried ({error})")
            continue
        changed = {
            name for name, value in _tensors(latent) if not _equal(value, dict(_tensors(edited))[name])
        }
        back = edit.inverse(latent, model.field).apply(edited, model.field)
        apart = max(_apart(value, dict(_tensors(back))[name]) for name, value in _tensors(latent))
        largest = max(largest, apart)
        print(
            f"{step.name}: changes {', '.join(sorted(changed))}; the inverse is {apart:.1e} off", flush=True
        )
        if not changed <= allowed:
            raise AssertionError(f"{step.name} changes {sorted(changed - allowed)} too")
        figures["steps"] = figures.get("steps", 0) + 1
    figures["inverse, largest error"] = largest
    print(figures)
    record("edits_exactness", figures, settings={"run": load_config, "method": method, "elements": elements})


def truth(load_config: Path, views: int = 4, steps: int = 100, most: int = 0) -> None:
    """PSNR of edits of held-out scenes, as encoded and as inverted from their base state, per edit.

    Args:
        load_config: config.yml of a run of nest-prior.
        views: number of images of the base state.
        steps: of each inversion.
        most: number of held-out scenes; 0: all.
    """
    prior, data = load(load_config)
    ways = {
        "encoder": (InversionConfig("encoder"), 0),
        "hybrid": (InversionConfig("hybrid"), steps),
    }
    found: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in ways}
    for number in held_out(data, most):
        sample = data.eval_sample(number, views)
        for name, (config, taken) in ways.items():
            latent = invert(sample.context, prior, config, taken)
            for edit, metrics, _ in prior.model.score(latent, sample):
                found[name][_kind(edit, sample.edit)].append(metrics["psnr"])
            unedited = replace(
                sample, targets=tuple((sample.edit, v) for e, v in sample.targets if e != sample.edit)
            )
            for _, metrics, _ in prior.model.score(latent, unedited):
                found[name]["left as it is"].append(metrics["psnr"])
        print(
            sample.name, {n: {k: round(v[-1], 2) for k, v in f.items()} for n, f in found.items()}, flush=True
        )
    figures = {name: {kind: float(np.mean(v)) for kind, v in kinds.items()} for name, kinds in found.items()}
    for name, kinds in figures.items():
        print(name, {kind: round(value, 2) for kind, value in kinds.items()})
    settings = {
        "run": load_config,
        "data": data.dataparser.config.data,
        "views": views,
        "steps": steps,
        "scenes": most or len(data.held_out),
    }
    record("edits_truth", figures, settings=settings)


def _kind(edit: Edit, base: Edit) -> str:
    return " and ".join(edit.differences(base)) or "base"


def _least_psnr(model: Any, latent: SceneLatent, elements: int, size: int) -> float:
    """Smallest PSNR in dB of edited scenes against moved cameras, over random g, cameras and times."""
    rng = np.random.default_rng(0)
    dynamics = getattr(model, "_dynamics", model.flow)
    worst, white = math.inf, torch.ones(3)
    for i in range(elements):
        rotation, shift = rng.normal(size=3), rng.uniform(-0.5, 0.5, size=3)
        edit = SceneEdit((Move(tuple(shift), tuple(rotation), about=(0.0, 0.0, 0.0)),))
        if model.field.knows_light:
            edit = edit.then(SceneEdit((Relight(tuple(rotation)),)))
        g = torch.eye(4)
        g[:3, :3] = quat_to_rotmat(quat_exp(torch.tensor(rotation, dtype=torch.float32)))
        g[:3, 3] = torch.tensor(shift)
        viewmats = cameras_around(4.0, (360.0 * i / elements,), (20.0,), (0.0,))
        intrinsics = torch.tensor([[size, 0.0, size / 2], [0.0, size, size / 2], [0.0, 0.0, 1.0]])[None]
        time = float(rng.uniform(-0.5, 1.5))
        images = []
        for z, cameras in ((edit.apply(latent, model.field), viewmats), (latent, viewmats @ g)):
            gaussians = DecodedScene(z, model.field, dynamics).gaussians_at(time)
            views = Views(viewmats=cameras, Ks=intrinsics, width=size, height=size)
            images.append(model.rasterize(gaussians, views, white).rgb)
        worst = min(worst, -10 * math.log10(max(float((images[0] - images[1]).square().mean()), 1e-20)))
    return worst


def _tensors(latent: SceneLatent) -> list[tuple[str, Any]]:
    """All values of a latent, by name; sizes that are not set are 1."""
    if latent.sizes is None:
        latent = replace(latent, sizes=torch.ones_like(latent.translations[:, 0]))
    own = [(part.name, getattr(latent, part.name)) for part in fields(latent) if part.name != "motion"]
    return own + [
        (f"motion.{part.name}", getattr(latent.motion, part.name)) for part in fields(latent.motion)
    ]


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b


def _apart(a: Any, b: Any) -> float:
    """Largest difference of two values; of quaternions up to their sign."""
    if isinstance(a, TimeMap):
        return max(abs(a.speed - b.speed), abs(a.offset - b.offset))
    if not isinstance(a, Tensor) or not isinstance(b, Tensor) or not a.is_floating_point():
        return 0.0
    same = (a - b).abs()
    if a.ndim == 2 and a.shape[1] == 4:
        same = torch.minimum(same, (a + b).abs())
    return float(same.max()) if same.numel() else 0.0


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"exactness": exactness, "truth": truth})
