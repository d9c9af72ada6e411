"""What moves in images of a scene that mostly stands still: where a still scene fails to explain them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy import ndimage
from torch import Tensor

from nest_nerfstudio.cameras import downscale_views
from nest_nerfstudio.geometry.multiview import project, sample_images, visible
from nest_nerfstudio.geometry.sh import rgb_to_sh
from nest_nerfstudio.rasterizers.base import RenderMode
from nest_nerfstudio.training.visual_hull import mean_colors, read_silhouettes
from nest_nerfstudio.types import Gaussians, Points, Rendering, Views

Draw = Callable[[Gaussians, Views, RenderMode], Rendering]

FULL_SIZE = 320
"""Pixels of the longer side of images in which things that move are placed, at least."""
_SOLID = 0.3
"""Opacity of Gaussians whose residuals count, and that are the surface of a scene: large faint ones hang
before it, and expected depth that counts them too is a seventh too small on the casual set."""
_BLUR = 1.0
"""Pixels, standard deviation of the blur of residuals."""
_UNEXPLAINED = 0.05
"""Residual, of colours in [0, 1], that a surface has to exceed its own usual one by."""
_SMALLEST = 0.002
"""Share of an image that is a moving part, at least."""
_FEWEST = 5
"""Frames that a thing is seen in, and points of it, at least."""
_STAYS = 0.3
"""Distance of a thing from where it mostly is, over its half size, up to which it counts as there."""
_THICKNESS = 0.15
"""Standard deviation of how far points lie before and behind the middle of a thing, over its half size."""
_CHUNK = 50_000
"""Gaussians at a time, as torch's quantiles are of 16 million numbers at most."""
_CANDIDATES = 200_000
"""Points in the box of a thing that are tried."""
_EMPTY = 0.2
"""Share of the images that may find a point of a thing empty."""


@dataclass(frozen=True)
class Frame:
    """A training view in which motion is sought.

    Attributes:
        view: one camera with its image and time, at a small size.
        depth: camera-space z of the still scene, world units; 0 where there is none.
        mask: where the image shows what the still scene does not.
    """

    view: Views
    depth: Float[Tensor, "h w"]
    mask: Bool[Tensor, "h w"]

    @property
    def time(self) -> float:
        assert self.view.times is not None
        return float(self.view.times[0])


@torch.no_grad()
def find_frames(views: Iterable[Views], still: Gaussians, draw: Draw, size: int = FULL_SIZE) -> list[Frame]:
    """Where images show what a still scene does not: residuals that their surface has not in most images.

    A surface that is hard to draw has a residual in all images; one that something passes has it in some. So
    each Gaussian has a usual residual, by a low quantile over all images that see it, and what exceeds it is
    unexplained.

    Args:
        views: single training views with times and opaque images.
        still: the scene that was fitted as if nothing moved.
        draw: draws Gaussians from the cameras of views.
        size: pixels of the longer side of images that are compared, at least, and less than twice as many.
    """
    small = [downscale_views(v, max(1, max(v.width, v.height) // size)) for v in views]
    solid = still.select(still.opacities > _SOLID)
    residuals, surfaces, covered = [], [], []
    for view in small:  # whose colours are not kept: that many images take memory
        rendering, surface = draw(still, view, "RGB"), draw(solid, view, "RGB+ED").depth
        assert surface is not None
        residuals.append(residual_of(rendering, view.images))
        surfaces.append(surface)
        covered.append(rendering.alpha[0, ..., 0] > 0.5)  # what is bare has not been fitted yet
    usual = _usual(still, small, surfaces, residuals)
    painted = replace(still, sh=rgb_to_sh(usual[:, None].expand(-1, 3))[:, None])
    frames = []
    for view, residual, surface, drawn_here in zip(small, residuals, surfaces, covered, strict=True):
        expected = draw(painted, replace(view, exposures=None), "RGB").rgb[0, ..., 0]
        unexplained = drawn_here & (residual - 1.5 * expected > _UNEXPLAINED)
        if view.masks is not None:
            unexplained &= view.masks[0, ..., 0] > 0.5
        mask = torch.from_numpy(_cleaned(unexplained.cpu().numpy())).to(residual.device)
        depth = torch.where(drawn_here, surface[0, ..., 0], 0.0)
        frames.append(Frame(view, depth, mask))
    return frames


def residual_of(rendering: Rendering, images: Float[Tensor, "1 h w 3"] | None) -> Float[Tensor, "h w"]:
    """Absolute difference of a single view's rendering and image, mean of the channels, blurred a little."""
    assert images is not None
    return _blurred((rendering.rgb - images).abs().mean(-1)[:, None])[0, 0]


def _blurred(image: Float[Tensor, "v c h w"]) -> Float[Tensor, "v c h w"]:
    offsets = torch.arange(-3, 4, device=image.device)
    kernel = (-0.5 * (offsets / _BLUR) ** 2).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).to(image)
    padded = F.pad(image, (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.mT)


def _usual(
    still: Gaussians, views: Sequence[Views], surfaces: Sequence[Tensor], residuals: Sequence[Tensor]
) -> Float[Tensor, " n"]:
    """Residual of each Gaussian in the images that see it, such that it is less in a quarter of them; the
    median of all pixels where few do."""
    rows = []
    for view, drawn, residual in zip(views, surfaces, residuals, strict=True):
        grid, depths = project(view, still.means)
        surface = sample_images(drawn, grid)[..., 0]
        seen = visible(grid, depths) & ((depths - surface).abs() < 0.1 * surface)
        values = sample_images(residual[None, ..., None], grid)[..., 0]
        rows.append(torch.where(seen & (still.opacities > _SOLID), values, torch.nan)[0])
    table = torch.stack(rows)
    usual = torch.cat([part.nanquantile(0.25, 0) for part in table.split(_CHUNK, 1)])
    known = (~table.isnan()).sum(0) >= 5
    return torch.where(known, usual, torch.stack([r.median() for r in residuals]).median())


def _cleaned(mask: np.ndarray) -> np.ndarray:
    """Without specks, and with small holes filled."""
    mask = ndimage.binary_closing(ndimage.median_filter(mask, 3), iterations=1)
    labels = _labels(mask)
    is_large = np.bincount(labels.ravel()) >= _SMALLEST * mask.size
    is_large[0] = False
    return is_large[labels]


def _labels(mask: np.ndarray) -> np.ndarray:
    """Number of the connected component of each pixel, from 1; 0 where there is none."""
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, np.ones((3, 3)), output=labels)
    return labels


# -------------------------------------------------------------------- from masks to places


@dataclass(frozen=True)
class MovingPart:
    """One thing that moves.

    Attributes:
        points: on it at the canonical time, world frame.
        shifts: its way from there, world units, at even times from 0 to 1.
    """

    points: Points
    shifts: Float[Tensor, "s 3"]


@dataclass(frozen=True)
class _Sighting:
    time: float
    place: Tensor
    size: float
    mask: Tensor
    frame: Frame


@torch.no_grad()
def place_parts(
    frames: Sequence[Frame], canonical_time: float, num_times: int, num_points: int
) -> list[MovingPart]:
    """Where things that move are, and their ways.

    One moving camera cannot tell how far off a thing is that moves: a near one that is slow looks like a far
    one that is fast. What decides is that things stand on what is below them: a thing is as far off as the
    still scene where its lower border meets it.

    Args:
        frames: from `find_frames`.
        canonical_time: clip time at which `points` are asked for.
        num_times: how many times `shifts` are asked for at.
        num_points: how many points, of all parts.
    """
    ordered = sorted(frames, key=lambda frame: frame.time)
    tracks = _tracks([_sightings(frame) for frame in ordered], canonical_time)
    tracks = [track for track in tracks if len(track) >= _FEWEST]
    sizes = [max(s.mask.float().sum().item() for s in track) for track in tracks]
    parts = []
    for track, size in zip(tracks, sizes, strict=True):
        count = int(num_points * size / sum(sizes))
        part = _part(track, canonical_time, num_times, count)
        if part is not None:
            parts.append(part)
    return parts


@torch.no_grad()
def without_fixed(frames: Sequence[Frame], canonical_time: float) -> list[Frame]:
    """Frames whose masks leave out what stays where it is: most of that stands still, not fitted well yet."""
    ordered = sorted(frames, key=lambda frame: frame.time)
    masks = {id(frame): frame.mask.clone() for frame in ordered}  # several cameras may have equal times
    for track in _tracks([_sightings(frame) for frame in ordered], canonical_time):
        places = torch.stack([sighting.place for sighting in track])
        size = float(np.median([sighting.size for sighting in track]))
        if (places - places.median(0).values).norm(dim=1).median() < _STAYS * size:
            for sighting in track:
                masks[id(sighting.frame)] &= ~sighting.mask
    return [replace(frame, mask=masks[id(frame)]) for frame in ordered]


def _sightings(frame: Frame) -> list[_Sighting]:
    labels, found = _labels(frame.mask.cpu().numpy()), []
    for i in range(1, int(labels.max()) + 1):
        mask = torch.from_numpy(labels == i).to(frame.mask.device)
        place = _place(frame, mask)
        if place is not None:
            found.append(_Sighting(frame.time, *place, mask, frame))
    return found


def _place(frame: Frame, mask: Bool[Tensor, "h w"]) -> tuple[Tensor, float] | None:
    """Middle of a component, as far off as the still scene at its lower border, and its half size."""
    K, viewmat = frame.view.Ks[0], frame.view.viewmats[0]
    rows, columns = mask.nonzero().float().add(0.5).unbind(1)
    down = -viewmat[:2, 2]  # of the world, in the image
    height = columns * down[0] + rows * down[1]
    lowest = height >= height.quantile(0.95)
    depths = frame.depth[mask][lowest]
    depths = depths[depths > 0]
    if len(depths) < 2:
        return None
    z = depths.median()
    middle = torch.stack([columns.mean(), rows.mean(), z.new_ones(())])
    local = torch.linalg.inv(K) @ middle * z
    world = viewmat[:3, :3].mT @ (local - viewmat[:3, 3])
    extent = torch.stack([columns.max() - columns.min(), rows.max() - rows.min()]).max()
    return world, float(0.5 * extent * z / K[0, 0])


def _tracks(sightings: Sequence[list[_Sighting]], canonical_time: float) -> list[list[_Sighting]]:
    """Chains of what is seen at the canonical time, before it and after it."""
    times = [group[0].time if group else np.inf for group in sightings]
    middle = int(np.argmin([abs(time - canonical_time) for time in times]))
    tracks = []
    for start in sightings[middle]:
        track = [start]
        for step in (-1, 1):
            last = start
            for i in range(middle + step, len(sightings) if step > 0 else -1, step):
                near = [s for s in sightings[i] if (s.place - last.place).norm() < 1.5 * last.size]
                if near:
                    last = min(near, key=lambda s: float((s.place - last.place).norm()))
                    track.append(last)
        tracks.append(sorted(track, key=lambda s: s.time))
    return tracks


def _part(track: list[_Sighting], canonical_time: float, num_times: int, count: int) -> MovingPart | None:
    if count < _FEWEST:
        return None
    times = torch.tensor([s.time for s in track])
    places = torch.stack([s.place for s in track])
    way = _smooth(times.to(places), places)
    at = way(places.new_tensor([canonical_time]))[0]
    size = float(np.median([s.size for s in track]))
    views = []
    for sighting, place in zip(track, way(times.to(places)), strict=True):
        view = sighting.frame.view
        viewmats = view.viewmats.clone()
        viewmats[0, :3, 3] += viewmats[0, :3, :3] @ (place - at)
        views.append(replace(view, viewmats=viewmats, alphas=sighting.mask[None, ..., None].float()))
    near = sorted(views, key=lambda v: abs(float(v.times[0]) - canonical_time))[:8]  # type: ignore[index]
    inside = _in_hull(views, near[0], at, size)[: count // 2]
    flat = _on_plane(near[0], at, count - len(inside), _THICKNESS * size)
    positions = torch.cat([inside, flat])
    even = torch.linspace(0, 1, num_times).to(places)
    return MovingPart(Points(positions, mean_colors(near, positions)), way(even) - at)


def _on_plane(view: Views, at: Float[Tensor, " 3"], count: int, thickness: float) -> Float[Tensor, "n 3"]:
    """Points of a silhouette near the plane through a point that faces its camera."""
    assert view.alphas is not None
    pixels = view.alphas[0, ..., 0].nonzero().float()
    chosen = pixels[torch.randint(len(pixels), (count,)).to(pixels.device)]
    pixels = (chosen + torch.rand_like(chosen)).flip(1)
    viewmat = view.viewmats[0]
    depths = viewmat[2, :3] @ at + viewmat[2, 3] + thickness * torch.randn_like(pixels[:, :1])
    local = torch.cat([pixels, torch.ones_like(depths)], 1) @ torch.linalg.inv(view.Ks[0]).mT * depths
    return (local - viewmat[:3, 3]) @ viewmat[:3, :3]


def _in_hull(views: list[Views], first: Views, at: Float[Tensor, " 3"], size: float) -> Float[Tensor, "n 3"]:
    """Points within the silhouettes of most views, about as far from a camera as a point.

    The hull of a short way of one camera reaches far towards it and away from it.
    """
    points = at + 1.2 * size * (2 * torch.rand(_CANDIDATES, 3, device=at.device) - 1)
    points = points[((points - at) @ first.viewmats[0, 2, :3]).abs() < 3 * _THICKNESS * size]
    return points[read_silhouettes(views, points)[0] <= _EMPTY]


def _smooth(
    times: Float[Tensor, " v"], places: Float[Tensor, "v 3"], width: float = 0.06
) -> Callable[[Float[Tensor, " s"]], Float[Tensor, "s 3"]]:
    """Local linear fit to places over time, of which outliers hardly count."""
    trust = torch.ones_like(times)

    def at(when: Tensor) -> Tensor:
        offsets = times - when[:, None]
        reach = offsets.abs().sort(1).values[:, min(4, len(times) - 1), None].clamp_min(width)
        weights = trust * (-0.5 * (offsets / reach) ** 2).exp()
        design = torch.stack([torch.ones_like(offsets), offsets / reach], -1)
        left = design.mT @ (weights[..., None] * design)
        left = left + 1e-3 * torch.eye(2).to(left) * left.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        right = design.mT @ (weights[..., None] * places)
        return torch.linalg.solve(left, right)[:, 0]

    for _ in range(3):
        errors = (at(times) - places).norm(dim=1)
        trust = 1 / (1 + (errors / (2 * errors.median() + 1e-9)) ** 2)
    return at
