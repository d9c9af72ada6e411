"""Scores of images, with and without the weights of LPIPS."""

import math
from typing import Any

import pytest
import torch

from nest_nerfstudio.models import metrics as module
from nest_nerfstudio.models.metrics import ImageMetrics


class NoWeights:
    """In place of LPIPS: its weights cannot be had. Counts how often they are looked for."""

    looked_for = 0

    def __init__(self, **_: Any) -> None:
        type(self).looked_for += 1
        raise OSError("no network")


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> type[NoWeights]:
    monkeypatch.setattr(module, "LearnedPerceptualImagePatchSimilarity", NoWeights)
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

    monkeypatch.setattr(module, "LearnedPerceptualImagePatchSimilarity", MeanDifference)
    image = torch.rand(24, 20, 3) * 0.8
    assert ImageMetrics()(image + 0.1, image)["lpips"] == pytest.approx(0.1, abs=1e-5)


def test_scores_are_plain_numbers() -> None:
    image = torch.rand(24, 20, 3, requires_grad=True)
    assert all(type(value) is float for value in ImageMetrics()(image, image).values())
