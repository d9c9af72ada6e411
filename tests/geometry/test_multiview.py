"""Images are shrunk, read and projected to as a naive loop would."""

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.geometry.multiview import shrink


def shrink_by_loop(image: Tensor, factor: int, how: str) -> Tensor:
    """[H, W, C], block by block."""
    rows = []
    for y in range(image.shape[0] // factor):
        row = []
        for x in range(image.shape[1] // factor):
            block = image[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
            pixels = block.flatten(0, 1)
            middle = block[factor // 2, factor // 2]
            row.append({"mean": pixels.mean(0), "min": pixels.amin(0), "nearest": middle}[how])
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("how", ["mean", "min", "nearest"])
@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_shrinks_block_by_block(factor: int, how: str) -> None:
    """Rows and columns that are left over are cut off."""
    image = torch.randn(13, 18, 3, dtype=torch.float64)
    torch.testing.assert_close(shrink(image, factor, how), shrink_by_loop(image, factor, how))


def test_shrinks_any_batch_of_images() -> None:
    images = torch.rand(2, 3, 8, 11, 4)
    small = shrink(images, 2, "mean")
    assert small.shape == (2, 3, 4, 5, 4)
    torch.testing.assert_close(small[1, 2], shrink_by_loop(images[1, 2], 2, "mean"))


def test_gradients_pass_through_shrinking() -> None:
    image = torch.rand(4, 6, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: shrink(x, 2, "mean"), image)
    assert torch.autograd.gradcheck(lambda x: shrink(x, 2, "min"), image)
