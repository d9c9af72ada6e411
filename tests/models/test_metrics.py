"""Scores of images, with and without the weights of LPIPS."""

import math
from typing import Any

import pytest
import torch
from torchmetrics.image import lpip

from nest_nerfstudio.models.metrics import ImageMetrics


class NoWeights:
    """In place of LPIPS: its weights cannot be had. Counts how often they are looked for."""

    looked_for = 0

    def __init__(self, **_: Any) -> None:
        type(self).looked_for += 1
        raise OSError("no network")


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> type[NoWeights]:
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", NoWeights)
    NoWeights.looked_for = 0
    return NoWeights


def test_psnr_is_that_of_the_squared_error() -> None:
    image = torch.rand(24, 20, 3) * 0.8
    assert ImageMetrics()(image + 0.1, image)["psnr"] == pytest.approx(20.0, abs=1e-3)
    noise = 0.05 * torch.randn_like(image)
    shown = (image + noise).clamp(0, 1)
    mse = (shown - image).square().mean().item()
    assert ImageMetrics()(image + noise, image)["psnr"] == pytest.approx(-10 * math.log10(mse), abs=1e-3)


def test_ssim_is_one_for_the_same_image_and_less_for_others() -> None:
    image = torch.rand(24, 20, 3)
    assert ImageMetrics()(image, image)["ssim"] == pytest.approx(1.0, abs=1e-5)
    assert ImageMetrics()(1 - image, image)["ssim"] < 0
    assert ImageMetrics()(0.5 * image + 0.2, image)["ssim"] < 0.95


def test_colours_outside_the_unit_interval_count_as_at_its_ends() -> None:
    white, black = torch.ones(24, 20, 3), torch.zeros(24, 20, 3)
    assert ImageMetrics()(3 * white, white) == ImageMetrics()(white, white)
    assert ImageMetrics()(-3 * white, black) == ImageMetrics()(black, black)


def test_without_its_weights_lpips_is_left_out_with_one_line(capsys, no_weights) -> None:
    score, image = ImageMetrics(), torch.rand(24, 20, 3)
    assert no_weights.looked_for == 0  # neither training nor building a model asks for them
    assert [set(score(image, image)) for _ in range(3)] == [{"psnr", "ssim"}] * 3
    assert no_weights.looked_for == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("LPIPS is left out: its weights could not be loaded (no network)") == 1


def test_with_its_weights_lpips_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    class MeanDifference(torch.nn.Module):
        def __init__(self, normalize: bool) -> None:
            super().__init__()
            assert normalize  # images are in [0, 1]

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.shape == b.shape == (1, 3, 24, 20)
            return (a - b).mean()

    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", MeanDifference)
    image = torch.rand(24, 20, 3) * 0.8
    assert ImageMetrics()(image + 0.1, image)["lpips"] == pytest.approx(0.1, abs=1e-5)


def test_scores_are_plain_numbers() -> None:
    image = torch.rand(24, 20, 3, requires_grad=True)
    assert all(type(value) is float for value in ImageMetrics()(image, image).values())


def noise_under(mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return torch.where(mask > 0, image, torch.rand_like(image))


def test_what_is_masked_out_changes_no_score() -> None:
    target, mask = torch.rand(40, 36, 3), torch.ones(40, 36, 1)
    mask[20:32, 8:20] = 0
    shown = (target + 0.1 * torch.randn_like(target)).clamp(0, 1)
    scores = ImageMetrics()(shown, target, mask)
    others = ImageMetrics()(noise_under(mask, shown), noise_under(mask, target), mask)
    assert others == pytest.approx(scores, abs=1e-5)
    mse = (shown - target)[mask[..., 0] > 0].square().mean().item()
    assert scores["psnr"] == pytest.approx(-10 * math.log10(mse), abs=1e-3)
    assert ImageMetrics()(shown, noise_under(mask, target))["psnr"] < scores["psnr"] - 3


def test_masked_ssim_is_that_of_the_windows_without_masked_pixels() -> None:
    """Of an image whose left half is masked out: that of the right half, but for windows beyond its edge."""
    target, mask = torch.rand(40, 60, 3), torch.ones(40, 60, 1)
    mask[:, :30] = 0
    shown = (0.7 * target + 0.3 * torch.rand_like(target)).clamp(0, 1)
    whole = ImageMetrics()(shown, target)["ssim"]
    masked = ImageMetrics()(shown, noise_under(mask, target), mask)["ssim"]
    assert masked == pytest.approx(whole, abs=0.03)
    assert ImageMetrics()(shown, noise_under(mask, target))["ssim"] < whole - 0.2


def test_where_no_window_is_free_of_masked_pixels_ssim_is_of_those_around_the_others() -> None:
    target, mask = torch.rand(24, 20, 3), torch.zeros(24, 20, 1)
    mask[::6] = 1
    assert ImageMetrics()(noise_under(mask, target), target, mask)["ssim"] == pytest.approx(1.0, abs=1e-5)
    assert ImageMetrics()(1 - target, target, mask)["ssim"] < 0.9


def test_a_mask_of_all_pixels_changes_no_score() -> None:
    target, shown = torch.rand(2, 24, 20, 3)
    scores = ImageMetrics()(shown, target, torch.ones(24, 20, 1))
    assert scores == pytest.approx(ImageMetrics()(shown, target))


def test_masked_lpips_is_over_the_share_of_the_pixels_to_use(monkeypatch: pytest.MonkeyPatch) -> None:
    class MeanDifference(torch.nn.Module):
        def __init__(self, normalize: bool) -> None:
            super().__init__()

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a - b).mean()

    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", MeanDifference)
    image, mask = torch.rand(24, 20, 3) * 0.8, torch.ones(24, 20, 1)
    mask[:18] = 0
    assert ImageMetrics()(image + 0.1, image, mask)["lpips"] == pytest.approx(0.1, abs=1e-5)


def test_images_without_a_pixel_to_use_have_no_score() -> None:
    image = torch.rand(24, 20, 3)
    assert ImageMetrics()(image, image, torch.zeros(24, 20, 1)) == {}
