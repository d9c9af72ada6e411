"""Features of space: read where they were written, and aware of what stands far off."""

import pytest
import torch

from nest_nerfstudio.encoders.lift import cube_cells
from nest_nerfstudio.encoders.volume import VolumeFeatures, sample_volume
from tests.equivariance import pictures

RADIUS, CELLS = 1.25, 8
DOWN = torch.tensor([0.0, 0.0, -1.0])


def test_a_cell_is_read_where_it_is() -> None:
    places = cube_cells(torch.zeros(3), RADIUS, CELLS)
    volume = places.mT.unflatten(1, (CELLS,) * 3)[None]  # each cell holds its own place
    inside = (torch.rand(100, 3) * 2 - 1) * RADIUS * (1 - 1 / CELLS)
    torch.testing.assert_close(sample_volume(volume, inside, RADIUS), inside, atol=1e-5, rtol=0)
    beyond = torch.tensor([[9.0, 0.2, -9.0]])
    edge = RADIUS * (1 - 1 / CELLS)
    torch.testing.assert_close(
        sample_volume(volume, beyond, RADIUS), torch.tensor([[edge, 0.2, -edge]]), atol=1e-5, rtol=0
    )


def test_every_cell_learns_of_the_whole_scene() -> None:
    """What one view shows in one corner reaches the feature of the opposite one."""
    volume = VolumeFeatures(4, 8, CELLS)
    maps = torch.randn(3, 4, 12, 12)
    changed = maps.clone()
    changed[0, :, :2, :2] += 1
    views = pictures(3)
    difference = (volume(views, changed, DOWN, RADIUS) - volume(views, maps, DOWN, RADIUS)).abs().sum(1)[0]
    assert (difference > 0).all()


def test_views_are_pooled() -> None:
    volume, maps = VolumeFeatures(4, 8, CELLS), torch.randn(4, 4, 12, 12)
    views = pictures(4)
    order = torch.tensor([2, 0, 3, 1])
    here, there = volume(views, maps, DOWN, RADIUS), volume(views.select(order), maps[order], DOWN, RADIUS)
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cells", [0, 4, 12])
def test_cells_that_cannot_be_halved(cells: int) -> None:
    with pytest.raises(ValueError, match="volume_cells must be a multiple of 8"):
        VolumeFeatures(4, 8, cells)
