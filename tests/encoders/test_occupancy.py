"""The learned part of the carving: what other views leave empty is foreseen from the context."""

from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.latent_encoder import LatentEncoderConfig
from nest_nerfstudio.encoders.lift import ball_cells, may_hold
from nest_nerfstudio.encoders.occupancy import Guess, likely
from nest_nerfstudio.encoders.proposals import ProposalNetworkConfig
from nest_nerfstudio.types import Views
from tests.equivariance import pictures

RADIUS, COUNT = 1.25, 24
EDGE = 2 * RADIUS / COUNT


def small_encoder() -> LatentEncoderConfig:
    proposals = ProposalNetworkConfig(cells=48, patches=16)
    return LatentEncoderConfig(image_size=48, proposals=proposals, num_tokens=16)


def guess_of(cells: torch.Tensor, logits: torch.Tensor) -> Guess:
    return Guess(cells, logits, EDGE, torch.zeros(3), RADIUS)


def test_loss_is_least_for_what_the_other_views_leave() -> None:
    views, cells = pictures(6), ball_cells(torch.zeros(3), RADIUS, COUNT)
    truth = may_hold(views, cells, EDGE, torch.zeros(3), RADIUS)
    assert 0 < truth.sum() < 0.3 * len(cells)
    right = torch.where(truth, 4.0, -4.0)
    at_right, undecided, at_wrong = (
        float(guess_of(cells, logits).loss([views])) for logits in (right, 0 * right, -right)
    )
    assert at_right < 0.05
    assert undecided == pytest.approx(0.6931, abs=1e-3)
    assert at_wrong > 3


def column() -> tuple[Views, torch.Tensor]:
    """A camera on the z axis, and five places behind each other on its ray."""
    eye = torch.eye(4)
    eye[2, 3] = 4.0
    K = torch.tensor([[70.0, 0, 24], [0, 70.0, 24], [0, 0, 1]])
    places = torch.tensor([[0.01, 0.01, z] for z in (-0.4, -0.2, 0.0, 0.2, 0.4)])
    return Views(viewmats=eye[None], Ks=K[None], width=48, height=48), places


@pytest.mark.parametrize(
    ("chances", "kept"),
    [
        ([0.9, 0.8, 0.51, 0.2, 0.1], [True, True, True, False, False]),  # likely ones
        ([0.01, 0.02, 0.05, 0.04, 0.01], [False, False, True, True, False]),  # something has to be there
    ],
)
def test_every_ray_keeps_its_likeliest(chances: list[float], kept: list[bool]) -> None:
    views, places = column()
    assert likely(torch.tensor(chances), views, places, 24).tolist() == kept


def test_a_view_has_no_say_in_what_it_does_not_see() -> None:
    views, places = column()
    away = torch.eye(4)
    away[2, 3] = -4.0  # all is behind it
    both = Views(torch.stack([views.viewmats[0], away]), views.Ks.repeat(2, 1, 1), 48, 48)
    chances = torch.tensor([0.01, 0.02, 0.05, 0.04, 0.01])
    assert likely(chances, both, places, 24).tolist() == likely(chances, views, places, 24).tolist()


def test_cells_that_only_one_picture_shows_are_no_examples() -> None:
    views, places = column()
    opaque = replace(views, images=torch.ones(1, 48, 48, 3), alphas=torch.ones(1, 48, 48, 1))
    guess = guess_of(places, torch.tensor([9.0, -9.0, 9.0, -9.0, 9.0]))
    assert guess.loss([opaque]) == 0
    assert guess.loss([opaque, opaque]) > 3


def test_occupancy_is_learned_from_silhouettes() -> None:
    torch.manual_seed(0)
    encoder = small_encoder().setup().train()
    views = pictures(5)
    first = views.select(slice(1))
    optimizer = torch.optim.Adam(encoder.parameters(), 3e-3)
    losses = []
    for _ in range(100):
        guess = encoder.encode(first)[1]
        assert guess is not None
        loss = guess.loss([views])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]
    encoder.eval()
    assert encoder.encode(first)[1] is None
    before = small_encoder().setup().eval()
    # places near the three balls, rather than all along the cone
    spread = [e(first, num_tokens=100).translations.std(0).prod() for e in (before, encoder)]
    assert spread[1] < 0.7 * spread[0]


def test_one_view_is_judged_alone_in_every_step() -> None:
    """Of several views, it is also asked what the first one alone leaves open, and others do not."""
    encoder = small_encoder().setup().train()
    views = pictures(5)
    guess = encoder.encode(views)[1]
    assert guess is not None

    def share(some: Views) -> float:
        places, centre = guess.positions.float(), guess.centre.float()
        return float(may_hold(some, places, guess.edge, centre, guess.radius).float().mean())

    alone = sorted(share(views.select(slice(i, i + 1))) for i in range(5))
    assert alone[-1] > 0.99  # but for poses that are rounded
    assert alone[-2] < 0.9
    assert 0.1 < share(views) < 0.9
