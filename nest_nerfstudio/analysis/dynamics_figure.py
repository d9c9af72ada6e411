"""Figure of `nest-analyze dynamics`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nest_nerfstudio.analysis.cycles import Cycle


@dataclass(frozen=True)
class Portrait:
    """What is drawn.

    Attributes:
        times: in clips.
        energy: kinetic energy of the tokens.
        state_energy: of z.
        divergence: of F.
        components: principal components of z.
        cycle: of F, if there is one.
        scores: split, clip time and PSNR of images.
    """

    times: Float[Tensor, " t"]
    energy: Float[Tensor, " t"]
    state_energy: Float[Tensor, " t"]
    divergence: Float[Tensor, " t"]
    components: Float[Tensor, "t c"]
    cycle: Cycle | None
    scores: Sequence[tuple[str, float, float]]


def draw_dynamics(portrait: Portrait) -> Figure:
    """Energies, divergence, phase portrait, Floquet multipliers and PSNR, in six panels."""
    figure = Figure(figsize=(14, 8))
    panels = figure.subplots(2, 3).flatten()
    for axes, values, name in zip(
        panels,
        (portrait.energy, portrait.state_energy, portrait.divergence),
        ("kinetic energy of tokens", "kinetic energy of z", "divergence of F, per clip"),
        strict=False,
    ):
        axes.axvspan(0, 1, color="0.92")
        axes.plot(portrait.times, values)
        axes.set(xlabel="time, clips (grey: observed)", ylabel=name)
    for axes, values in ((panels[0], portrait.energy), (panels[1], portrait.state_energy)):
        axes.set_ylim(0, 1.1 * float(values.max()) or 1)
    _draw_phases(panels[3], portrait)
    _draw_multipliers(panels[4], portrait.cycle)
    _draw_scores(panels[5], portrait.scores)
    figure.tight_layout()
    return figure


def _draw_phases(axes: Axes, portrait: Portrait) -> None:
    first, second = portrait.components[:, 0], portrait.components[:, 1]
    points = axes.scatter(first, second, c=portrait.times, s=6, cmap="viridis")
    axes.plot(first, second, color="0.7", linewidth=0.6, zorder=0)
    axes.plot(first[0], second[0], "k*", markersize=10, label="time 0")
    axes.set(xlabel="first principal component of z", ylabel="second", aspect="equal")
    axes.figure.colorbar(points, ax=axes, label="time, clips")
    axes.legend()


def _draw_multipliers(axes: Axes, cycle: Cycle | None) -> None:
    angle = np.linspace(0, 2 * np.pi, 200)
    axes.plot(np.cos(angle), np.sin(angle), color="0.7", linewidth=0.8)
    if cycle is None:
        axes.text(0, 0, "no cycle found", ha="center")
    else:
        axes.plot(cycle.multipliers.real, cycle.multipliers.imag, "o")
        axes.set_title(f"Floquet multipliers, period {cycle.period:.4g} clips")
    axes.set(xlabel="real", ylabel="imaginary", aspect="equal")


def _draw_scores(axes: Axes, scores: Sequence[tuple[str, float, float]]) -> None:
    axes.axvspan(0, 1, color="0.92")
    for split in dict.fromkeys(split for split, _, _ in scores):
        own = [(time, psnr) for name, time, psnr in scores if name == split]
        axes.plot(*zip(*own, strict=True), "o-", markersize=4, linewidth=0.8, label=split)
    if scores:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no images scored", ha="center", transform=axes.transAxes)
    axes.set(xlabel="time, clips (grey: observed)", ylabel="PSNR, dB")
