"""Feature maps of images: a quarter of the size, of each image alone, with the context of all of it."""

import pytest
import torch

from nest_nerfstudio.encoders.image_features import ImageFeatures


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 50), (8, 8)])
def test_maps_have_a_quarter_of_the_resolution(height: int, width: int) -> None:
    maps = ImageFeatures(16)(torch.rand(2, 4, height, width))
    assert maps.shape == (2, 16, -(-height // 4), -(-width // 4))


def test_images_do_not_affect_each_other() -> None:
    """However many are encoded at once; batch norms would make them."""
    features, images = ImageFeatures(16).train(), torch.rand(3, 4, 32, 32)
    together = features(images)
    for i in range(3):
        torch.testing.assert_close(features(images[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("is_merged", [True, False])
def test_coarse_levels_give_every_pixel_the_whole_image(is_merged: bool) -> None:
    """What is in one corner reaches the opposite one by the coarse levels, and by nothing else."""
    features, size = ImageFeatures(16), 96
    for module in features.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.GroupNorm):  # statistics of the image would reach it too
                setattr(module, name, torch.nn.Identity())
    with torch.no_grad():
        for lateral in list(features.laterals)[1:]:
            lateral.weight.mul_(float(is_merged))
            lateral.bias.zero_()
    image = torch.rand(1, 4, size, size)
    changed = image.clone()
    changed[..., :4, :4] += 5.0
    difference = (features(changed) - features(image)).abs().amax((0, 1))
    assert difference[0, 0] > 1e-3
    assert bool(difference[-1, -1] > 0) == is_merged
