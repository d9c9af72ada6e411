"""Where tokens may be: inside all silhouettes, near their surface, and where a network expects something."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.proposals import ProposalNetwork, ProposalNetworkConfig
from nest_nerfstudio.encoders.views import alpha_maps, from_reference_frame
from nest_nerfstudio.encoders.voxels import in_hull
from nest_nerfstudio.geometry.multiview import project, visible
from nest_nerfstudio.types import Views
from tests.equivariance import pictures
from tests.small_capture import blobs

CENTRE, DOWN, RADIUS = torch.zeros(3), torch.tensor([0.0, 0.0, -1.0]), 1.25


def make_network(probability: float = 0.5, **settings) -> ProposalNetwork:
    """A network that finds all voxels occupied with one probability."""
    network = ProposalNetworkConfig(**{"cells": 48, "patches": 16, **settings}).setup(radius=RADIUS)
    last = network.occupancy_network.classifier[-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(torch.tensor(probability).logit())
    return network.eval()


def test_proposals_are_inside_all_silhouettes_and_cover_the_object() -> None:
    views = pictures(6)
    proposals = make_network()(views, CENTRE, DOWN)
    assert in_hull(views, alpha_maps(views), proposals.positions).float().mean() > 0.95
    away = torch.cdist(blobs(0.1).means, proposals.positions).amin(1)
    assert away.max() < 2 * RADIUS / 48 * 2


def test_positions_are_those_of_the_reference_frame() -> None:
    views = pictures(3, torch.float64)
    proposals = make_network().double()(views, CENTRE.double(), DOWN.double())
    there = from_reference_frame(views, CENTRE.double(), proposals.reference_positions.double())
    torch.testing.assert_close(proposals.positions, there, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_views", [2, 3])
def test_proposals_are_no_deeper_than_the_shell(num_views: int) -> None:
    """Under the surface of the hull, by its depth maps; divided by the number of views minus one."""
    views, shell = pictures(num_views), 0.3
    thick, thin = (make_network(shell=depth)(views, CENTRE, DOWN) for depth in (9.0, shell))
    assert len(thin.positions) < len(thick.positions)
    grid, depths = project(views, thick.positions)
    assert visible(grid, depths).all()
    is_near = torch.zeros(len(thick.positions), dtype=torch.bool)
    for v in range(num_views):  # each against the nearest and farthest voxel of its patch
        height, width = thick.front_depths.shape[1:]
        x, y = ((grid[v] + 1) / 2 * torch.tensor([width, height])).long().unbind(-1)
        behind = depths[v] - thick.front_depths[v, y, x]
        before = thick.back_depths[v, y, x] - depths[v]
        is_near |= torch.minimum(behind, before) < shell / (num_views - 1)
    # maps are interpolated between patches, so not one by one
    assert len(thin.positions) == pytest.approx(int(is_near.sum()), rel=0.2)


def test_unlikely_voxels_are_left_out_where_others_explain_the_silhouette() -> None:
    """Of a cone that is expected to be empty in its far half, hardly more than the near half is proposed."""
    views, network = pictures(1), make_network()
    whole = network(views, CENTRE, DOWN)
    middle = whole.reference_positions[:, 2].median()  # along the camera's axis

    def expect_the_near_half(_: torch.nn.Module, inputs: tuple, logits: torch.Tensor) -> torch.Tensor:
        return torch.where(inputs[3][:, 2] < middle, 3.0, -3.0).to(logits)

    network.occupancy_network.register_forward_hook(expect_the_near_half)
    half = network(views, CENTRE, DOWN)
    assert (half.reference_positions[:, 2] < middle + 0.05).float().mean() > 0.9
    is_covered = whole.front_depths > 0
    assert (half.front_depths > 0)[is_covered].float().mean() > 0.9  # by something on each of its rays


def test_without_alphas_the_whole_ball_is_proposed() -> None:
    views = replace(pictures(3), alphas=None)
    proposals = make_network()(views, CENTRE, DOWN)
    count = 4 / 3 * torch.pi * 12**3  # voxels of the coarser grid in the ball
    assert len(proposals.positions) > 0.85 * count
    assert proposals.positions.norm(dim=1).max() < RADIUS + 0.1  # less than half of the coarsest voxel


def test_silhouettes_that_share_nothing_are_an_error() -> None:
    views = pictures(3)
    assert views.alphas is not None
    with pytest.raises(ValueError, match="no position is inside all silhouettes of the 3 views"):
        make_network()(replace(views, alphas=torch.zeros_like(views.alphas)), CENTRE, DOWN)


def test_occupancy_is_predicted_on_request_only_and_does_not_change_the_proposals() -> None:
    network, views = make_network(), pictures(3)
    without, with_it = (network(views, CENTRE, DOWN, wanted) for wanted in (False, True))
    assert without.occupancy is None
    assert with_it.occupancy is not None
    assert len(with_it.occupancy.positions) == len(with_it.occupancy.logits) > 100
    torch.testing.assert_close(with_it.positions, without.positions)
    torch.testing.assert_close(with_it.volume, without.volume, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cells": 98}, "cells must be a multiple of 4, not 98"),
        ({"patches": 0}, "patches must be 2 or more, not 0"),
        ({"feature_dim": 20}, "feature_dim must be a multiple of 16, not 20"),
        ({"volume_cells": 12}, "volume_cells must be a multiple of 8, not 12"),
        ({"volume_dim": 4}, "volume_dim must be a multiple of 8, not 4"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProposalNetworkConfig(**settings).setup(radius=RADIUS)


def test_order_of_the_other_views_does_not_matter() -> None:
    """The first gives the axes of the voxels."""
    network, views = make_network(), pictures(4)

    def sorted_positions(some: Views) -> torch.Tensor:
        positions = network(some, CENTRE, DOWN).reference_positions
        return positions[(positions @ torch.tensor([1.0, 37.0, 1369.0])).argsort()]

    other = views.select(torch.tensor([0, 3, 1, 2]))
    torch.testing.assert_close(sorted_positions(views), sorted_positions(other))
