"""Feature volumes: read where they were written, and aware of the whole scene."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.volume import VolumeFeatures, sample_volume
from nest_nerfstudio.encoders.voxels import cube_voxels
from tests.equivariance import pictures

RADIUS, RESOLUTION = 1.25, 8
DOWN = torch.tensor([0.0, 0.0, -1.0])


def test_a_voxel_is_read_where_it_is() -> None:
    positions = cube_voxels(RADIUS, RESOLUTION).float()
    volume = positions.mT.unflatten(1, (RESOLUTION,) * 3)[None]  # each voxel holds its own position
    inside = (torch.rand(100, 3) * 2 - 1) * RADIUS * (1 - 1 / RESOLUTION)
    torch.testing.assert_close(sample_volume(volume, inside, RADIUS), inside, atol=1e-5, rtol=0)
    beyond = torch.tensor([[9.0, 0.2, -9.0]])
    edge = RADIUS * (1 - 1 / RESOLUTION)
    torch.testing.assert_close(
        sample_volume(volume, beyond, RADIUS), torch.tensor([[edge, 0.2, -edge]]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("is_connected", [True, False])
def test_coarse_levels_tell_every_voxel_of_the_whole_scene(is_connected: bool) -> None:
    """What is found in one corner reaches the opposite one, by the coarse levels and nothing else."""
    cells = 16
    volume = VolumeFeatures(4, 8, cells).eval()
    for module in volume.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.GroupNorm):  # statistics of all voxels would tell them too
                setattr(module, name, torch.nn.Identity())
    with torch.no_grad():
        for lateral in volume.laterals:
            lateral.weight.mul_(float(is_connected))
            lateral.bias.zero_()

    def far_corner(found: float) -> torch.Tensor:
        def change(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            cube = inputs[0].clone()
            cube[..., 0, 0, 0] += found
            return (cube,)

        hook = volume.input.register_forward_pre_hook(change)
        features = volume([(pictures(2), torch.zeros(2, 4, 12, 12))], DOWN, RADIUS)
        hook.remove()
        return features[0, :, -1, -1, -1]

    assert bool((far_corner(10.0) != far_corner(0.0)).any()) == is_connected


def test_a_view_that_sees_nothing_of_the_scene_changes_nothing() -> None:
    volume, views, maps = VolumeFeatures(4, 8, RESOLUTION), pictures(3), torch.randn(3, 4, 12, 12)
    away = views.viewmats.clone()
    away[2, :3] *= -away.new_tensor([1.0, -1.0, 1.0])[:, None]  # turned half round: all is behind it
    turned = replace(views, viewmats=away)
    two = volume([(views.select(slice(2)), maps[:2])], DOWN, RADIUS)
    torch.testing.assert_close(volume([(turned, maps)], DOWN, RADIUS), two, atol=1e-5, rtol=1e-5)
    assert (volume([(views, maps)], DOWN, RADIUS) - two).abs().max() > 1e-3


def test_views_are_pooled() -> None:
    volume, maps = VolumeFeatures(4, 8, RESOLUTION), torch.randn(4, 4, 12, 12)
    views = pictures(4)
    order = torch.tensor([2, 0, 3, 1])
    here, there = (
        volume([(views, maps)], DOWN, RADIUS),
        volume([(views.select(order), maps[order])], DOWN, RADIUS),
    )
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)


def test_sets_of_views_do_not_meet() -> None:
    volume, views, maps = VolumeFeatures(4, 8, RESOLUTION), pictures(3), torch.randn(3, 4, 12, 12)
    sets = [(views, maps), (views.select(slice(1)), maps[:1])]
    both = volume(sets, DOWN, RADIUS)
    for one, expected in zip(sets, both.split(1), strict=True):
        torch.testing.assert_close(volume([one], DOWN, RADIUS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cells", [0, 4, 12])
def test_cells_that_cannot_be_halved(cells: int) -> None:
    with pytest.raises(ValueError, match="volume_cells must be a multiple of 8"):
        VolumeFeatures(4, 8, cells)


@pytest.mark.parametrize("width", [0, 2, 12])
def test_widths_that_cannot_be_normalised(width: int) -> None:
    with pytest.raises(ValueError, match="volume_dim must be a multiple of 8"):
        VolumeFeatures(4, width, RESOLUTION)
