"""Figures of `nest-analyze attractors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nest_nerfstudio.analysis.basins import Plane
from nest_nerfstudio.analysis.maps import DIVERGED, NOT_SETTLED

OTHERS = {
    "spurious fixed point": (0.75, 0.75, 0.75),
    "cycle": (0.45, 0.45, 0.45),
    "not settled": (1.0, 1.0, 1.0),
    "diverges": (0.0, 0.0, 0.0),
}
"""Colours of states from which no example is reached."""


def draw_plane(plane: Plane) -> Figure:
    """The plane, each state in the colour of the example that iteration reaches from there."""
    palette = colormaps["tab10"].colors  # type: ignore[attr-defined]
    image = np.empty((*plane.reached.shape, 3))
    periods, reached = plane.periods.numpy(), plane.reached.numpy()
    for mask, name in (
        (periods == 1, "spurious fixed point"),
        (periods > 1, "cycle"),
        (periods == NOT_SETTLED, "not settled"),
        (periods == DIVERGED, "diverges"),
    ):
        image[mask] = OTHERS[name]
    for index in np.unique(reached[reached >= 0]):
        image[reached == index] = palette[index % 10]
    figure = Figure(figsize=(6.5, 5))
    axes = figure.subplots()
    axes.imshow(image, origin="lower", extent=plane.extent, interpolation="nearest")
    for index, (x, y) in enumerate(plane.points.tolist()):
        axes.plot(x, y, "o", color=palette[index % 10], markeredgecolor="black", markersize=9)
        axes.annotate(str(index), (x, y), xytext=(7, 5), textcoords="offset points", fontweight="bold")
    seen = [Patch(color=palette[i % 10], label=f"example {i}") for i in np.unique(reached[reached >= 0])]
    drawn = {tuple(color) for color in image.reshape(-1, 3)}
    others = {name: color for name, color in OTHERS.items() if color in drawn}
    seen += [Patch(facecolor=color, edgecolor="black", label=name) for name, color in others.items()]
    axes.legend(handles=seen, title="iteration ends at", loc="upper left", bbox_to_anchor=(1.02, 1))
    axes.set(title="Plane through the examples", xlabel="first axis", ylabel="second axis")
    return figure


@dataclass(frozen=True)
class Point:
    """A sweep's setting: figures of its seeds that converged, and the errors of all."""

    label: str
    x: float
    figures: Sequence[Mapping[str, float | int]]
    errors: Sequence[float]


PANELS = ("attractors", "starts that end at an example", "largest spectral radius")


def draw_sweep(points: Sequence[Point], xlabel: str, target: float, names: Sequence[str] = ()) -> Figure:
    """Mean and standard deviation over seeds against what is swept, a line for each label; errors reached.

    Args:
        points: of all labels.
        xlabel: what is swept.
        target: error at which training ends.
        names: of the positions 0, 1, … where these are no numbers.
    """
    figure = Figure(figsize=(11, 7))
    panels = figure.subplots(2, 2).flatten()
    labels = list(dict.fromkeys(point.label for point in points))
    for number, label in enumerate(labels):
        color = colormaps["tab10"].colors[number % 10]  # type: ignore[attr-defined]
        own = [point for point in points if point.label == label]
        nudge = 0.06 * (number - (len(labels) - 1) / 2)
        for axes, name in zip(panels, PANELS, strict=False):
            known = [(p.x + nudge, [f[name] for f in p.figures]) for p in own if p.figures]
            x = [x for x, _ in known]
            mean, deviation = ([float(f(values)) for _, values in known] for f in (np.mean, np.std))
            axes.errorbar(x, mean, deviation, marker="o", capsize=3, color=color, label=label)
        for point in own:
            x = [point.x + nudge] * len(point.errors)
            converged = np.array(point.errors) <= target
            for mask, face in ((converged, color), (~converged, "white")):
                panels[3].plot(
                    np.array(x)[mask],
                    np.array(point.errors)[mask],
                    "o",
                    color=color,
                    markerfacecolor=face,
                )
    for axes, name in zip(panels, PANELS, strict=False):
        axes.set(xlabel=xlabel, ylabel=name)
    for axes in panels[:2]:
        axes.set_ylim(-0.05, 1.05)
    panels[2].axhline(1, color="black", linewidth=0.8, linestyle="--")
    panels[2].set_yscale("log")
    panels[3].axhline(target, color="black", linewidth=0.8, linestyle="--")
    panels[3].set(xlabel=xlabel, ylabel="MSE reached; hollow: not converged", yscale="log")
    for axes in panels if names else ():
        axes.set_xticks(range(len(names)), names)
    panels[0].legend()
    figure.tight_layout()
    return figure
