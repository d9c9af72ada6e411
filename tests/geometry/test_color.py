"""The sRGB curve and hue shifts, against known values and the standard library."""

import colorsys

import pytest
import torch

from nest_nerfstudio.geometry.color import expose, linear_to_srgb, shift_hue, srgb_to_linear


def test_srgb_at_known_values() -> None:
    linear = torch.tensor([0.0, 0.0031308, 0.18, 0.5, 1.0])
    expected = torch.tensor([0.0, 0.04045, 0.46135613, 0.73535698, 1.0])
    torch.testing.assert_close(linear_to_srgb(linear.repeat(3, 1).mT).mT[0], expected, atol=1e-5, rtol=0)


def test_srgb_round_trip() -> None:
    rgb = torch.rand(200, 3)
    torch.testing.assert_close(linear_to_srgb(srgb_to_linear(rgb)), rgb, atol=1e-6, rtol=0)


def test_overexposed_values_have_a_gradient() -> None:
    bright = torch.full((1, 3), 1.5, requires_grad=True)
    linear_to_srgb(bright).sum().backward()
    assert bright.grad is not None
    assert (bright.grad > 0.1).all()


@pytest.mark.parametrize("turn", [-0.4, 0.0, 0.1, 0.75, 1.0])
def test_hue_shifts_as_in_hsv(turn: float) -> None:
    colors = torch.rand(50, 3)
    expected = []
    for red, green, blue in colors.tolist():
        h, s, v = colorsys.rgb_to_hsv(red, green, blue)
        expected.append(colorsys.hsv_to_rgb((h + turn) % 1, s, v))
    torch.testing.assert_close(shift_hue(colors, turn), torch.tensor(expected), atol=1e-5, rtol=0)


def test_hue_shifts_add_up() -> None:
    colors = torch.rand(50, 3, dtype=torch.float64)
    torch.testing.assert_close(shift_hue(shift_hue(colors, 0.3), 0.5), shift_hue(colors, 0.8))
    torch.testing.assert_close(shift_hue(colors, 1.0), colors)


def test_each_colour_may_have_a_shift_of_its_own() -> None:
    colors, turns = torch.rand(4, 3), torch.tensor([[0.0], [0.2], [0.5], [-0.3]])
    expected = torch.stack([shift_hue(color, float(turn)) for color, turn in zip(colors, turns, strict=True)])
    torch.testing.assert_close(shift_hue(colors, turns), expected)


def test_grey_has_no_hue_and_finite_gradients() -> None:
    grey = torch.full((4, 3), 0.4, requires_grad=True)
    shifted = shift_hue(grey, 0.3)
    torch.testing.assert_close(shifted, grey)
    shifted.sum().backward()
    assert grey.grad is not None
    assert grey.grad.isfinite().all()


def test_exposure_changes_what_stands_before_the_background_alone() -> None:
    color, alpha, background = torch.rand(2, 4, 5, 3), torch.rand(2, 4, 5, 1), torch.tensor([0.9, 0.5, 0.1])
    exposures = torch.eye(3, 4) + 0.3 * torch.randn(2, 3, 4)
    changed = torch.stack([c @ e[:, :3].T + e[:, 3] for c, e in zip(color, exposures, strict=True)])
    rgb, expected = (alpha * x + (1 - alpha) * background for x in (color, changed))
    torch.testing.assert_close(expose(rgb, alpha, background, exposures), expected)
    torch.testing.assert_close(expose(rgb, alpha, background, torch.eye(3, 4).expand(2, 3, 4)), rgb)
