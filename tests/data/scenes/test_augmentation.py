"""Images of augmented samples are those of the augmented scene."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nest_nerfstudio.data.scenes.augmentation import Augmentation, mirror, scale, swap_channels, turn
from nest_nerfstudio.geometry.color import shift_hue
from nest_nerfstudio.rasterizers.dense import DenseRasterizer
from nest_nerfstudio.states import Edit, SceneSample, SunSky
from nest_nerfstudio.types import Gaussians, Views
from tests.equivariance import pictures
from tests.small_capture import blobs

EDIT = Edit(SunSky((1.0, 2.0, -3.0)), hue=0.2, yaw=0.5, translate=(0.1, 0.2, 0.3))


def make_sample() -> SceneSample:
    return SceneSample("balls", "toy", pictures(2), Edit(), ((EDIT, pictures(3, first=0.4)),))


def drawn(gaussians: Gaussians, views: Views) -> torch.Tensor:
    return DenseRasterizer()(gaussians, views.viewmats, views.Ks, views.width, views.height).rgb


def seen(views: Views) -> torch.Tensor:
    assert views.images is not None
    assert views.alphas is not None
    return views.images * views.alphas


@pytest.mark.parametrize("part", ["context", "targets"])
def test_mirrored_images_show_the_mirrored_scene(part: str) -> None:
    sample = mirror(make_sample())
    views = sample.context if part == "context" else sample.targets[0][1]
    balls = blobs(0.1)  # round ones: their turns need no mirroring
    mirrored = replace(balls, means=balls.means * torch.tensor([-1.0, 1, 1]))
    torch.testing.assert_close(drawn(mirrored, views), seen(views), atol=0.01, rtol=0)
    edit = sample.targets[0][0]
    assert (edit.yaw, edit.translate) == (-0.5, (-0.1, 0.2, 0.3))
    assert edit.light is not None
    assert edit.light.direction == (-1.0, 2.0, -3.0)


def test_a_mirrored_clip_is_another() -> None:
    sample = make_sample()
    assert mirror(sample).clip is None
    assert [mirror(replace(sample, clip=n)).clip for n in (0, 3)] == [-1, -4]
    assert scale(replace(sample, clip=3), 1.5).clip == 3


def test_masks_are_mirrored_with_their_images() -> None:
    sample = make_sample()
    masks = torch.ones(2, sample.context.height, sample.context.width, 1)
    masks[:, :, :5] = 0
    mirrored = mirror(replace(sample, context=replace(sample.context, masks=masks))).context
    assert torch.equal(mirrored.masks, masks.flip(2))


def test_scaled_scene_gives_the_same_pictures() -> None:
    sample = scale(make_sample(), 1.5)
    balls = blobs(0.1)
    larger = replace(balls, means=1.5 * balls.means, scales=1.5 * balls.scales)
    torch.testing.assert_close(drawn(larger, sample.context), seen(sample.context), atol=0.01, rtol=0)
    assert sample.targets[0][0].translate == pytest.approx((0.15, 0.3, 0.45))


def test_turned_scene_gives_the_same_pictures() -> None:
    sample = turn(make_sample(), 0.8)
    balls = blobs(0.1)
    cos, sin = np.cos(0.8), np.sin(0.8)
    rotation = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float32)
    turned = replace(balls, means=balls.means @ rotation.T)
    torch.testing.assert_close(drawn(turned, sample.context), seen(sample.context), atol=0.01, rtol=0)
    assert sample.targets[0][0].translate == pytest.approx(
        (rotation @ torch.tensor([0.1, 0.2, 0.3])).tolist()
    )


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [1, 0, 2], [2, 1, 0]])
def test_swapped_channels_turn_hues_as_the_edit_then_says(order: list[int]) -> None:
    """Shifting the hue and swapping channels must come to the same as swapping and the changed shift."""
    colors = torch.rand(50, 3)
    sample = swap_channels(make_sample(), order)
    hue = sample.targets[0][0].hue
    torch.testing.assert_close(shift_hue(colors, 0.2)[:, order], shift_hue(colors[:, order], hue))
    assert sample.context.images is not None
    before = make_sample().context.images
    assert before is not None
    assert torch.equal(sample.context.images, before[..., order])


def test_hidden_squares_are_in_the_context_only() -> None:
    always = Augmentation(mirror=0.0, scale=1.0, swap_channels=0.0, drop_patches=1.0)
    before, after = make_sample(), always(make_sample(), np.random.default_rng(0))
    assert before.context.images is not None
    assert after.context.images is not None
    changed = (before.context.images != after.context.images).any(-1)
    assert 0 < changed.float().mean() <= 1 / 16
    assert torch.equal(seen(after.targets[0][1]), seen(before.targets[0][1]))


def test_exposure_varies_in_the_context_only() -> None:
    jittered = Augmentation(mirror=0.0, scale=1.0, swap_channels=0.0, drop_patches=0.0, jitter=0.2)
    before, after = make_sample(), jittered(make_sample(), np.random.default_rng(0))
    factors = [a.sum() / b.sum() for a, b in zip(seen(after.context), seen(before.context), strict=True)]
    assert len({round(float(f), 4) for f in factors}) == len(factors)
    assert all(1 / 1.2 <= f <= 1.2 for f in factors)
    assert torch.equal(seen(after.targets[0][1]), seen(before.targets[0][1]))


def test_azimuth_turns_the_world() -> None:
    turned = Augmentation(mirror=0.0, scale=1.0, swap_channels=0.0, drop_patches=0.0, azimuth=1.0)
    before, after = make_sample(), turned(make_sample(), np.random.default_rng(0))
    assert torch.equal(seen(after.context), seen(before.context))
    change = after.context.viewmats @ torch.linalg.inv(before.context.viewmats)
    assert (change - torch.eye(4)).abs().max() > 0.1
    up = torch.tensor([0.0, 0, 1])
    torch.testing.assert_close(
        after.context.viewmats[:, :3, :3] @ up, before.context.viewmats[:, :3, :3] @ up
    )


def test_the_same_draw_gives_the_same_sample() -> None:
    varied = [Augmentation()(make_sample(), np.random.default_rng(7)) for _ in range(2)]
    assert varied[0].targets[0][0] == varied[1].targets[0][0]
    assert torch.equal(varied[0].context.viewmats, varied[1].context.viewmats)


def test_an_unknown_light_stays_unknown() -> None:
    sample = replace(make_sample(), edit=Edit(light=None))
    assert mirror(sample).edit.light is None
