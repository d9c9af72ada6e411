"""New samples from old: changes of a scene that its pictures can follow exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.types import Edit, SceneSample, SunSky, Views


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied; each is drawn anew for every sample.

    Attributes:
        mirror: chance to mirror the world at the plane x = 0.
        scale: largest factor (or divisor) of the world's size.
        swap_channels: chance to permute red, green and blue: other albedos under a white light.
        drop_patches: chance to hide a square of each context view but not from its alpha; the model has to
            fill it from the other views, and from what it knows.
        jitter: largest factor (or divisor), less one, of each context view's brightness: an exposure that
            changes from picture to picture, and that the targets do not have.
        azimuth: chance to turn the world about z by any angle. An equivariant model learns nothing from it;
            it is for others, to compare.
    """

    mirror: float = 0.5
    scale: float = 1.1
    swap_channels: float = 0.5
    drop_patches: float = 0.2
    jitter: float = 0.0
    azimuth: float = 0.0

    def __call__(self, sample: SceneSample, rng: np.random.Generator) -> SceneSample:
        """A varied sample: context, targets and edits alike."""
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
    """The world mirrored at the plane x = 0: pictures flip, turns reverse."""

    def views(v: Views) -> Views:
        flip = v.viewmats.new_tensor([-1.0, 1.0, 1.0, 1.0])
        Ks = v.Ks.clone()
        Ks[:, 0, 2] = v.width - Ks[:, 0, 2]
        flipped = {
            name: picture.flip(2)
            for name in ("images", "alphas", "depths")
            if (picture := getattr(v, name)) is not None
        }
        return replace(v, viewmats=flip[:, None] * v.viewmats * flip, Ks=Ks, **flipped)

    def edit(e: Edit) -> Edit:
        x, y, z = e.translate
        light = _aim(e.light, lambda a, b, c: (-a, b, c))
        return replace(e, light=light, yaw=-e.yaw, translate=(-x, y, z))

    return _map(sample, views, edit)


def scale(sample: SceneSample, factor: float) -> SceneSample:
    """The world larger by a factor, and its cameras farther from the origin: pictures stay as they are."""

    def views(v: Views) -> Views:
        viewmats = v.viewmats.clone()
        viewmats[:, :3, 3] *= factor
        return replace(v, viewmats=viewmats, depths=None if v.depths is None else v.depths * factor)

    def edit(e: Edit) -> Edit:
        x, y, z = e.translate
        return replace(e, translate=(x * factor, y * factor, z * factor))

    return _map(sample, views, edit)


def swap_channels(sample: SceneSample, order: Sequence[int]) -> SceneSample:
    """Colours with their channels in another order: a turn of all hues by thirds, mirrored if it is odd."""
    is_odd = list(order) in ([0, 2, 1], [1, 0, 2], [2, 1, 0])

    def views(v: Views) -> Views:
        return replace(v, images=None if v.images is None else v.images[..., list(order)])

    def edit(e: Edit) -> Edit:
        return replace(e, hue=-e.hue) if is_odd else e

    return _map(sample, views, edit)


def _hide_squares(views: Views, rng: np.random.Generator) -> Views:
    """The views, each with the colours in a random square gone grey."""
    assert views.images is not None
    images: Float[Tensor, "v h w 3"] = views.images.clone()
    side = max(1, min(views.width, views.height) // 4)
    for image in images:
        y, x = rng.integers(0, views.height - side + 1), rng.integers(0, views.width - side + 1)
        image[y : y + side, x : x + side] = 0.5
    return replace(views, images=images)


def _expose(views: Views, most: float, rng: np.random.Generator) -> Views:
    """The views, each brighter or darker by a factor of its own."""
    assert views.images is not None
    factors = views.images.new_tensor(most ** rng.uniform(-1, 1, len(views)))
    return replace(views, images=(views.images * factors[:, None, None, None]).clamp(0, 1))


def turn(sample: SceneSample, yaw: float) -> SceneSample:
    """The world turned about z, with its light."""
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
    """A light that shines another way, if it is known."""
    return None if light is None else replace(light, direction=change(*light.direction))


def _map(sample: SceneSample, views: Callable[[Views], Views], edit: Callable[[Edit], Edit]) -> SceneSample:
    return replace(
        sample,
        context=views(sample.context),
        edit=edit(sample.edit),
        targets=tuple((edit(e), views(v)) for e, v in sample.targets),
    )
