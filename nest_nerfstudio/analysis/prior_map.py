"""The map of a prior on itself, Z → h(π f(Z)): its fixed points, and iteration as repair of images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from nest_nerfstudio.analysis.report import Report, Value
from nest_nerfstudio.models.nest_prior import NestPriorModel
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.types import Rendering, Views

SHOWN = (0, 1, 2, 4, 8, 16, 32)
"""Iterations whose images are drawn."""
NUDGE = 1e-2
"""Root mean square of the change of images by which the map's gain is measured."""


@dataclass(frozen=True)
class PriorMapConfig:
    """Iteration of the map of a trained prior; only with --load-config."""

    scene: str = ""
    """Name of the scene; empty: the first held-out one."""
    views: int = 4
    """Number of cameras, which stay as they are."""
    iterations: int = 8
    """Number of iterations."""
    corruption: Literal["noise", "occlusion"] = "noise"
    """Of the images that are to be repaired: normal noise, or a grey square on each; alpha stays."""
    strength: float = 0.3
    """Standard deviation of the noise, or side of the square as a share of the image's width."""


def analyze_prior(run: Path, config: PriorMapConfig, seed: int) -> Report:
    """Iterate the map from the images of a scene, and from corrupted ones.

    The states are images I with g(I) = π f(h(I)), from fixed cameras: tokens of two encodings stand at
    different places, so that latents cannot be subtracted. A fixed point of g is π f(Z) of a fixed point Z of
    Z → h(π f(Z)), and the other way round.

    Raises:
        ValueError: a run of another method, or settings of which nothing can be measured.
    """
    if config.iterations < 2 or config.views < 1 or config.strength <= 0:
        raise ValueError("--iterations must be 2 or more, --views 1 or more, and --strength above 0")
    model = load_run(run).model
    if not isinstance(model, NestPriorModel):
        raise ValueError(f"{run} is a run of {type(model).__name__}: only nest-prior encodes what it renders")
    number = _scene_of(model, config.scene)
    assert model.contexts is not None
    clean = model.contexts[number, config.views]
    generator = torch.Generator().manual_seed(seed)
    corrupted = corrupt(clean, config, generator)
    orbits = {
        "clean": _iterate(model, clean, config.iterations, "From clean images"),
        config.corruption: _iterate(model, corrupted, config.iterations, "From corrupted images"),
    }
    rows: list[dict[str, Value]] = []
    figures: dict[str, Value] = {"scene": model.contexts.names[number], "views": len(clean)}
    target = _flat(model, clean)
    for name, orbit in orbits.items():
        images = [_flat(model, views) for views in orbit]
        residuals = [_rms(b - a) for a, b in pairwise(images[1:])]
        scores = [_psnr(image, target) for image in images]
        rows += [
            {
                "from": name,
                "iteration": index,
                "PSNR": scores[index + 1],
                "residual": residuals[index] if index < len(residuals) else None,
            }
            for index in range(len(images) - 1)
        ]
        figures |= {
            **({} if name == "clean" else {"PSNR of the corrupted input": scores[0]}),
            f"PSNR of the first reconstruction ({name})": scores[1],
            f"best PSNR ({name})": max(scores[1:]),
            f"iteration of the best PSNR ({name})": scores.index(max(scores[1:])) - 1,
            f"last residual ({name})": residuals[-1],
            f"contraction a step ({name})": _rate(residuals),
        }
    end = orbits["clean"][-1]
    figures["gain of a small change at the last iterate"] = gain(model, end, generator)
    panel = _draw(model, clean, corrupted, orbits[config.corruption], rows)
    note = (
        "Residual: root mean square difference of the images of two iterations. Contraction: mean ratio of "
    )
    return Report(figures, rows, {"prior_map": panel}, notes=[note + "two residuals; below 1, they shrink."])


def _scene_of(model: NestPriorModel, name: str) -> int:
    """Number of a scene; without a name, of the one that a viewer shows first."""
    assert model.contexts is not None
    names = list(model.contexts.names)
    if name and name not in names:
        raise ValueError(f"there is no scene {name!r}; the first are {', '.join(names[:8])}")
    return names.index(name) if name else model.viewer_controls.scene


def corrupt(views: Views, config: PriorMapConfig, generator: torch.Generator) -> Views:
    """Views whose images are noisy or partly covered."""
    assert views.images is not None
    images = views.images.clone()
    if config.corruption == "noise":
        noise = torch.randn(images.shape, generator=generator).to(images)
        return replace(views, images=(images + config.strength * noise).clamp(0, 1))
    side = round(config.strength * views.width)
    top, left = (views.height - side) // 2, (views.width - side) // 2
    images[:, top : top + side, left : left + side] = 0.5
    return replace(views, images=images)


@torch.no_grad()
def step(model: NestPriorModel, views: Views) -> Views:
    """g: the views with images of what is encoded from theirs."""
    rendering: Rendering = model.render(model.encoder(views), views)
    if views.alphas is None:
        return replace(views, images=rendering.rgb.clamp(0, 1))
    background = model.shown_background(True)
    straight = (rendering.rgb - background * (1 - rendering.alpha)) / rendering.alpha.clamp_min(1e-3)
    return replace(views, images=straight.clamp(0, 1), alphas=rendering.alpha.clamp(0, 1))


def _iterate(model: NestPriorModel, views: Views, iterations: int, progress: str) -> list[Views]:
    """Input, reconstruction (iteration 0), and so on."""
    orbit = [views]
    for _ in track(range(iterations + 1), progress, console=CONSOLE, transient=True):
        orbit.append(step(model, orbit[-1]))
        if not _flat(model, orbit[-1]).isfinite().all():
            raise ValueError("the prior renders values that are not finite; its training has failed")
    return orbit


def gain(model: NestPriorModel, views: Views, generator: torch.Generator, rounds: int = 4) -> float:
    """‖g(I + v) − g(I)‖ / ‖v‖ by finite differences, v from power iteration: how g changes a small change."""
    base, found = step(model, views), 0.0
    assert views.images is not None
    assert base.images is not None
    vector = torch.randn(views.images.shape, generator=generator).to(views.images)
    for _ in range(rounds):
        vector = vector * (NUDGE / _rms(vector))
        moved = step(model, replace(views, images=views.images + vector))
        assert moved.images is not None
        vector = moved.images - base.images
        found = _rms(vector) / NUDGE
        if found == 0:
            break
    return found


def _flat(model: NestPriorModel, views: Views) -> Tensor:
    return views.over(model.shown_background(views.alphas is not None))


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _psnr(images: Tensor, target: Tensor) -> float:
    return float(-10 * (images - target).square().mean().clamp_min(1e-10).log10())


def _rate(residuals: list[float]) -> float | None:
    """Geometric mean of the ratios of residuals."""
    if len(residuals) < 2 or min(residuals) == 0:
        return None
    return (residuals[-1] / residuals[0]) ** (1 / (len(residuals) - 1))


def _draw(
    model: NestPriorModel, clean: Views, corrupted: Views, orbit: list[Views], rows: list[dict[str, Any]]
) -> Figure:
    """Clean, corrupted and reconstructed images, a row for each of up to three views; scores below."""
    shown = [index for index in SHOWN if index < len(orbit) - 1]
    columns = {"clean": clean, "corrupted": corrupted} | {f"iteration {i}": orbit[i + 1] for i in shown}
    count = min(3, len(clean))
    figure = Figure(figsize=(2 * len(columns), 2 * count + 3.2), layout="constrained")
    parts = figure.subfigures(2, 1, height_ratios=(2 * count, 3.2), squeeze=False)
    panels = parts[0, 0].subplots(count, len(columns), squeeze=False)
    target = _flat(model, clean)
    for column, (name, views) in enumerate(columns.items()):
        images = _flat(model, views)
        score = "" if name == "clean" else f"\n{_psnr(images, target):.1f} dB"
        panels[0, column].set_title(name + score, fontsize=9)
        for row in range(count):
            panels[row, column].imshow(images[row].clamp(0, 1).cpu())
            panels[row, column].set_axis_off()
    left, right = parts[1, 0].subplots(1, 2)
    for start in dict.fromkeys(row["from"] for row in rows):
        own = [row for row in rows if row["from"] == start]
        left.plot([r["iteration"] for r in own], [r["PSNR"] for r in own], "o-", label=f"from {start}")
        known = [r for r in own if r["residual"]]
        right.semilogy([r["iteration"] for r in known], [r["residual"] for r in known], "o-")
    left.set(xlabel="iteration", ylabel="PSNR against clean, dB")
    left.legend()
    right.set(xlabel="iteration", ylabel="residual")
    return figure
