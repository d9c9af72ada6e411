"""A scene of which most stands still: fitted as if nothing moved, then joined by what is found to move."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from nest_nerfstudio.fields.bound_gaussians import OPEN, BoundGaussians
from nest_nerfstudio.geometry.multiview import project, sample_images, visible
from nest_nerfstudio.geometry.points import nearest
from nest_nerfstudio.training.moving_parts import (
    Draw,
    Frame,
    MovingPart,
    find_frames,
    residual_of,
    without_fixed,
)
from nest_nerfstudio.types import Gaussians, Rendering, Views

_TRUSTED = 2.0
"""Residual, over the median of its image, up to which a pixel is taken to show what stands still."""
_LEAST = 0.03
"""Residual, of colours in [0, 1], that is no sign of motion."""
_LOOKS = 6
"""How often what moves is sought while what stands still is fitted."""
_LOOK_SIZE = 80
"""Pixels of the longer side of images for this, at least."""
_SAME_CAMERA = 0.05
"""Entries of `viewmats` that differ by less are of one camera, whose pose is refined."""


class StillBackground:
    """Where training images show what moves, by times and cameras; a resumed training looks again.

    Args:
        canonical_time: clip time at which things that move are told apart.
    """

    def __init__(self, canonical_time: float) -> None:
        self.masks: dict[float, list[tuple[Float[Tensor, "4 4"], Bool[Tensor, "h w"]]]] = {}
        self._canonical_time = canonical_time
        self._next_look = -1 + 1 / _LOOKS

    def is_due(self, opening: float) -> bool:
        """Whether to look for what moves, while what stands still is fitted.

        Args:
            opening: of the curriculum, from -1 to 0.
        """
        return self._next_look <= opening < 0

    def look(self, views: Iterable[Views], still: Gaussians, draw: Draw, opening: float) -> None:
        """See at a small size where images show what moves, while what stands still is fitted.

        Args:
            views: single training views with images and times.
            still: the scene as it is.
            draw: draws Gaussians from the cameras of views.
            opening: as of `is_due`.
        """
        self._next_look = opening + 1 / _LOOKS
        self._keep(without_fixed(find_frames(views, still, draw, _LOOK_SIZE), self._canonical_time))

    def look_closely(self, views: Iterable[Views], still: Gaussians, draw: Draw) -> list[Frame]:
        """See at full size where images show what moves; arguments as of `find_frames`."""
        frames = find_frames(views, still, draw)
        self._keep(frames)
        return frames

    def _keep(self, frames: Sequence[Frame]) -> None:
        self.masks = {}
        for frame in frames:
            found = frame.view.viewmats[0], _widened(frame.mask)
            self.masks.setdefault(_key(frame.time), []).append(found)

    @torch.no_grad()
    def trusted(
        self, rendering: Rendering, views: Views, background: Float[Tensor, " 3"]
    ) -> Float[Tensor, "1 h w 1"]:
        """1 for the pixels of an image that may train what stands still, 0 where something passes.

        Before the first look, what a still scene explains far worse than most does not train it, as in
        RobustNeRF (arXiv 2302.00833).
        """
        mask = self._mask(views)
        if mask is None:
            residual = residual_of(rendering, views.over(background))
            return (residual <= _TRUSTED * residual.median() + _LEAST).float()[None, ..., None]
        size = views.height, views.width
        covered = F.interpolate(mask.float()[None, None], size, mode="area")[0, 0]
        return (covered < 0.25).float()[None, ..., None]

    def _mask(self, views: Views) -> Bool[Tensor, "h w"] | None:
        assert views.times is not None
        near = [
            (float((viewmat - views.viewmats[0]).abs().max()), mask)
            for viewmat, mask in self.masks.get(_key(float(views.times[0])), [])
        ]
        distance, mask = min(near, key=lambda found: found[0], default=(math.inf, None))
        return mask if distance < _SAME_CAMERA else None

    def describe(self, parts: Sequence[MovingPart]) -> str:
        """What was found, in a line."""
        masks = [mask for found in self.masks.values() for _, mask in found]
        share = torch.stack([mask.float().mean() for mask in masks]).mean().item()
        if not parts:
            return "Nothing is found to move: the scene is taken to stand still."
        length = max(float(part.shifts.diff(dim=0).norm(dim=1).sum()) for part in parts)
        return (
            f"{share:.1%} of the images show what moves: {len(parts)} part(s), on ways of "
            f"up to {length:.2g} world units; {sum(len(part.points) for part in parts)} Gaussians join."
        )

    def hide(self, gaussians: Gaussians, gates: Float[Tensor, " n"], views: Views) -> Gaussians:
        """The same Gaussians; those that stand still get no gradient where the image shows what moves."""
        mask = self._mask(views)
        if mask is None:
            return gaussians
        with torch.no_grad():
            grid, depths = project(views, gaussians.means)
            covered = sample_images(mask.float()[None, ..., None], grid)[0, :, 0] > 0.25
            hidden = covered & visible(grid, depths)[0] & (gates == 0)

        def kept(x: Tensor) -> Tensor:
            return torch.where(hidden.view(-1, *[1] * (x.dim() - 1)), x.detach(), x)

        parts = ("means", "quats", "scales", "opacities", "sh")
        return replace(gaussians, **{name: kept(getattr(gaussians, name)) for name in parts})


def _widened(mask: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """With a margin of about a hundredth of the image."""
    margin = max(1, round(max(mask.shape) / 100))
    return F.max_pool2d(mask.float()[None, None], 2 * margin + 1, 1, margin)[0, 0] > 0.5


def _key(time: float) -> float:
    return round(time, 6)


def new_gaussians(field: BoundGaussians, parts: Sequence[MovingPart], opacity: float) -> dict[str, Tensor]:
    """Parameters of Gaussians on what moves, by name; their gates are open, and may shut."""
    points = torch.cat([part.points.positions for part in parts])
    rgb = torch.cat([part.points.rgb for part in parts])
    fresh = BoundGaussians(len(points), 1, 0).to(points.device)
    fresh.initialize(points, rgb, opacity)
    fresh.stand_still()
    new = {name: value.detach() for name, value in fresh.params.items()}
    rest = field.params["features_rest"]
    return {**new, "features_rest": rest.new_zeros(len(points), *rest.shape[1:]), "gates": torch.full_like(new["gates"], OPEN)}


def shifts_of(positions: Float[Tensor, "k 3"], parts: Sequence[MovingPart]) -> Float[Tensor, "s k 3"]:
    """Ways of tokens at these positions: each that of the part that it stands on."""
    points = torch.cat([part.points.positions for part in parts])
    owner = torch.cat([torch.full((len(part.points),), i) for i, part in enumerate(parts)]).to(points.device)
    chosen = owner[nearest(positions, points, 1)[1][:, 0]]
    return torch.stack([part.shifts for part in parts], 1)[:, chosen]
