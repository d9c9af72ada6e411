"""Occupancy is learned: what other views leave empty is predicted from the context."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.latent_encoder import LatentEncoderConfig
from nest_nerfstudio.encoders.occupancy import PredictedOccupancy, select_occupied
from nest_nerfstudio.encoders.proposals import ProposalNetworkConfig
from nest_nerfstudio.encoders.voxels import ball_voxels, may_touch_hull
from nest_nerfstudio.types import Views
from tests.equivariance import pictures

RADIUS, COUNT = 1.25, 24
EDGE = 2 * RADIUS / COUNT


def small_encoder() -> LatentEncoderConfig:
    proposals = ProposalNetworkConfig(cells=48, patches=16)
    return LatentEncoderConfig(image_size=48, proposals=proposals, num_tokens=16)


def prediction_of(voxels: torch.Tensor, logits: torch.Tensor) -> PredictedOccupancy:
    return PredictedOccupancy(voxels, logits, EDGE, torch.zeros(3), RADIUS)


def test_loss_is_least_for_what_the_other_views_leave() -> None:
    views, voxels = pictures(6), ball_voxels(torch.zeros(3), RADIUS, COUNT)
    truth = may_touch_hull(views, voxels, EDGE, torch.zeros(3), RADIUS)
    assert 0 < truth.sum() < 0.3 * len(voxels)
    right = torch.where(truth, 4.0, -4.0)
    at_right, undecided, at_wrong = (
        float(prediction_of(voxels, logits).loss([views])) for logits in (right, 0 * right, -right)
    )
    assert at_right < 0.05
    assert undecided == pytest.approx(0.6931, abs=1e-3)
    assert at_wrong > 3


def column() -> tuple[Views, torch.Tensor]:
    """A camera on the z axis, and five positions behind each other on its ray."""
    eye = torch.eye(4)
    eye[2, 3] = 4.0
    K = torch.tensor([[70.0, 0, 24], [0, 70.0, 24], [0, 0, 1]])
    positions = torch.tensor([[0.01, 0.01, z] for z in (-0.4, -0.2, 0.0, 0.2, 0.4)])
    return Views(viewmats=eye[None], Ks=K[None], width=48, height=48), positions


@pytest.mark.parametrize(
    ("probabilities", "kept"),
    [
        ([0.9, 0.8, 0.51, 0.2, 0.1], [True, True, True, False, False]),  # likely ones
        ([0.01, 0.02, 0.05, 0.04, 0.01], [False, False, True, True, False]),  # a silhouette needs something
    ],
)
def test_every_ray_keeps_its_likeliest(probabilities: list[float], kept: list[bool]) -> None:
    views, positions = column()
    assert select_occupied(torch.tensor(probabilities), views, positions, 24).tolist() == kept


def test_a_view_has_no_say_in_what_it_does_not_see() -> None:
    views, positions = column()
    away = torch.eye(4)
    away[2, 3] = -4.0  # all is behind it
    both = Views(torch.stack([views.viewmats[0], away]), views.Ks.repeat(2, 1, 1), 48, 48)
    probabilities = torch.tensor([0.01, 0.02, 0.05, 0.04, 0.01])
    assert (
        select_occupied(probabilities, both, positions, 24).tolist()
        == select_occupied(probabilities, views, positions, 24).tolist()
    )


def test_voxels_that_only_one_image_shows_are_no_examples() -> None:
    views, positions = column()
    opaque = replace(views, images=torch.ones(1, 48, 48, 3), alphas=torch.ones(1, 48, 48, 1))
    predicted = prediction_of(positions, torch.tensor([9.0, -9.0, 9.0, -9.0, 9.0]))
    assert predicted.loss([opaque]) == 0
    assert predicted.loss([opaque, opaque]) > 3


def test_occupancy_is_learned_from_silhouettes() -> None:
    torch.manual_seed(0)
    encoder = small_encoder().setup().train()
    views = pictures(5)
    first = views.select(slice(1))
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
    losses = []
    for _ in range(100):
        predicted = encoder.encode(first)[1]
        assert predicted is not None
        loss = predicted.loss([views])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    encoder.eval()
    assert encoder.encode(first)[1] is None
    before = small_encoder().setup().eval()
    # positions near the three balls, rather than all along the cone
    spread = [e(first, num_tokens=100).translations.std(0).prod() for e in (before, encoder)]
    assert spread[1] < 0.7 * spread[0]


def test_one_view_is_judged_alone_in_every_step() -> None:
    """Of several views, the first is also taken alone, and the others are not."""
    encoder = small_encoder().setup().train()
    views = pictures(5)
    predicted = encoder.encode(views)[1]
    assert predicted is not None

    def share(some: Views) -> float:
        positions, centre = predicted.positions.float(), predicted.centre.float()
        return float(may_touch_hull(some, positions, predicted.edge, centre, predicted.radius).float().mean())

    alone = sorted(share(views.select(slice(i, i + 1))) for i in range(5))
    assert alone[-1] > 0.99  # but for poses that are rounded
    assert alone[-2] < 0.9
    assert 0.1 < share(views) < 0.9
