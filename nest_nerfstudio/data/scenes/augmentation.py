"""Augmentation of samples: changes of a scene whose effect on its images is known exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.data.scenes.sampling import map_views
from nest_nerfstudio.states import Edit, SceneSample, SunSky
from nest_nerfstudio.types import Views


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of samples, drawn anew for each sample.

    Attributes:
        mirror: probability of mirroring the world at the plane x = 0.
        scale: largest factor (or divisor) of the world's size.
        swap_channels: probability of permuting red, green and blue: other albedos under a white light.
        drop_patches: probability of greying a square of each context view, but not of its alpha; the model
            has to fill it in from the other views and from what it has learned.
        jitter: largest factor (or divisor), minus one, of the brightness of each context view: a varying
            exposure, which the targets do not have.
        azimuth: probability of rotating the world about z by a random angle. An equivariant model learns
            nothing from it; it is for comparison with other models.
    """

    mirror: float = 0.5
    scale: float = 1.1
    swap_channels: float = 0.5
    drop_patches: float = 0.2
    jitter: float = 0.0
    azimuth: float = 0.0

    def __call__(self, sample: SceneSample, rng: np.random.Generator) -> SceneSample:
        """Augment a sample: context, targets and edits consistently."""
        if rng.random() < self.mirror:
            sample = mirror(sample)
        if self.scale > 1:
            sample = scale(sample, float(self.scale ** rng.uniform(-1, 1)))
        if rng.random() < self.swap_channels:
            sample = swap_channels(sample, rng.permutation(3).tolist())
        if rng.random() < self.drop_patches:
            sample = replace(sample, context=_hide_squares(sample.context, rng))
        if self.jitter > 0:
            sample = replace(sample, context=_expose(sample.context, 1 + self.jitter, rng))
        if rng.random() < self.azimuth:
            sample = turn(sample, float(rng.uniform(0, 2 * np.pi)))
        return sample


def mirror(sample: SceneSample) -> SceneSample:
    """Mirror the world at the plane x = 0: images flip and rotations reverse."""

    def views(v: Views) -> Views:
        flip = v.viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0])
        Ks = v.Ks.clone()
        Ks[:, 0, 2] = v.width - Ks[:, 0, 2]
        flipped = {
            name: image.flip(2)
            for name in ("images", "alphas", "depths", "masks")
            if (image := getattr(v, name)) is not None
        }
        return replace(v, viewmats=flip[:, None] * v.viewmats * flip, Ks=Ks, **flipped)

    def edit(e: Edit) -> Edit:
        x, y, z = e.translate
        light = _aim(e.light, lambda a, b, c: (-a, b, c))
        return replace(e, light=light, yaw=-e.yaw, translate=(-x, y, z))

    mirrored = _map(sample, views, edit)
    return replace(mirrored, clip=None if sample.clip is None else ~sample.clip)


def scale(sample: SceneSample, factor: float) -> SceneSample:
    """Scale the world and the distances of its cameras by a factor: images stay as they are."""

    def views(v: Views) -> Views:
        viewmats = v.viewmats.clone()
        viewmats[:, :3, 3] *= factor
        return replace(v, viewmats=viewmats, depths=None if v.depths is None else v.depths * factor)

    def edit(e: Edit) -> Edit:
        x, y, z = e.translate
        return replace(e, translate=(x * factor, y * factor, z * factor))

    return _map(sample, views, edit)


def swap_channels(sample: SceneSample, order: Sequence[int]) -> SceneSample:
    """Permute the colour channels: hues rotate by thirds of the circle, and reverse if the order is odd."""
    is_odd = list(order) in ([0, 2, 1], [1, 0, 2], [2, 1, 0])

    def views(v: Views) -> Views:
        return replace(v, images=None if v.images is None else v.images[..., list(order)])

    def edit(e: Edit) -> Edit:
        return replace(e, hue=-e.hue) if is_odd else e

    return _map(sample, views, edit)


def _hide_squares(views: Views, rng: np.random.Generator) -> Views:
    """Set a random square of each view to grey."""
    assert views.images is not None
    images: Float[Tensor, "v h w 3"] = views.images.clone()
    side = max(1, min(views.width, views.height) // 4)
    for image in images:
        y, x = rng.integers(0, views.height - side + 1), rng.integers(0, views.width - side + 1)
        image[y : y + side, x : x + side] = 0.5
    return replace(views, images=images)


def _expose(views: Views, most: float, rng: np.random.Generator) -> Views:
    """Multiply the brightness of each view by a random factor of its own."""
    assert views.images is not None
    factors = views.images.new_tensor(most ** rng.uniform(-1, 1, len(views)))
    return replace(views, images=(views.images * factors[:, None, None, None]).clamp(0, 1))


def turn(sample: SceneSample, yaw: float) -> SceneSample:
    """Rotate the world and its light about z by an angle in radians."""
    cos, sin = float(np.cos(yaw)), float(np.sin(yaw))
    back = torch.tensor([[cos, sin, 0, 0], [-sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

    def rotated(x: float, y: float, z: float) -> tuple[float, float, float]:
        return cos * x - sin * y, sin * x + cos * y, z

    def views(v: Views) -> Views:
        return replace(v, viewmats=v.viewmats @ back.to(v.viewmats))

    def edit(e: Edit) -> Edit:
        return replace(e, light=_aim(e.light, rotated), translate=rotated(*e.translate))

    return _map(sample, views, edit)


def _aim(light: SunSky | None, change: Callable[..., tuple[float, float, float]]) -> SunSky | None:
    """Change the direction of a light, if it is known."""
    return None if light is None else replace(light, direction=change(*light.direction))


def _map(sample: SceneSample, views: Callable[[Views], Views], edit: Callable[[Edit], Edit]) -> SceneSample:
    changed = map_views(sample, views)
    targets = tuple((edit(e), v) for e, v in changed.targets)
    return replace(changed, edit=edit(sample.edit), targets=targets)
