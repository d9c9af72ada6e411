"""Moves that all cameras share are a drift of the world, and are taken out; others stay."""

import torch

from nest_nerfstudio.training.camera_refinement import describe_moves, without_drift

CENTRES = torch.tensor([[0.0, 0, 1], [1, 0, 1.1], [2, 0.3, 1], [2.5, 1, 0.9], [2, 2, 1]])


def drift(shift: torch.Tensor, turn: torch.Tensor, scale: float) -> torch.Tensor:
    turns = turn.expand_as(CENTRES)
    return torch.cat([shift + torch.linalg.cross(turns, CENTRES) + scale * CENTRES, turns], 1)


def test_a_world_that_drifts_is_brought_back() -> None:
    common = drift(torch.tensor([0.01, -0.02, 0.03]), torch.tensor([0.02, 0.01, -0.03]), 0.04)
    torch.testing.assert_close(without_drift(common, CENTRES), torch.zeros(5, 6), atol=1e-7, rtol=0)


def test_moves_of_single_cameras_stay_and_drift_beside_them_goes() -> None:
    own = 0.01 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    kept = without_drift(own, CENTRES)
    assert kept.norm() > 0.5 * own.norm()
    torch.testing.assert_close(without_drift(kept, CENTRES), kept, atol=1e-8, rtol=0)
    common = drift(torch.tensor([0.1, 0.0, 0.0]), torch.tensor([0.0, 0.1, 0.0]), -0.05)
    torch.testing.assert_close(without_drift(own + common, CENTRES), kept, atol=1e-7, rtol=0)


def test_cameras_at_one_place_and_few_cameras() -> None:
    turns = torch.cat([torch.zeros(5, 3), torch.tensor([0.0, 0.1, 0.0]).expand(5, 3)], 1)
    assert without_drift(turns, torch.ones(5, 3)).abs().max() < 1e-7
    assert not without_drift(turns[:2], CENTRES[:2]).any()


def test_the_log_has_world_units_and_degrees() -> None:
    moves = torch.zeros(2, 6)
    moves[0, 0], moves[1, 4] = 0.5, torch.pi / 2
    assert describe_moves(moves) == (
        "Cameras moved by 0.25 world units and 45° on average, by 0.5 and 90° at most."
    )
