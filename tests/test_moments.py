"""Running moments describe the vectors that they have seen."""

import torch

from nest_nerfstudio.moments import gaussian_of, no_moments, take_in


def test_mean_and_principal_directions() -> None:
    torch.manual_seed(0)
    spread = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.1]])
    vectors = torch.randn(4000, 3) @ spread + torch.tensor([1.0, -2.0, 3.0])
    moments = no_moments(3)
    assert gaussian_of(moments) is None
    for batch in vectors.split(8):
        take_in(moments, batch)
    known = gaussian_of(moments)
    assert known is not None
    mean, directions = known
    torch.testing.assert_close(mean, vectors.double().mean(0), atol=0.3, rtol=0)
    covariance = directions @ directions.mT
    torch.testing.assert_close(covariance, vectors.double().T.cov(), atol=0.6, rtol=0)
    assert (directions.norm(dim=0).diff() > 0).all()
    part = gaussian_of(moments, slice(1, 3))
    assert part is not None
    torch.testing.assert_close(part[0], mean[1:])
    torch.testing.assert_close(part[1] @ part[1].mT, covariance[1:, 1:])


def test_one_vector_has_no_spread() -> None:
    moments = no_moments(2)
    take_in(moments, torch.tensor([[0.5, -1.5]]))
    known = gaussian_of(moments)
    assert known is not None
    torch.testing.assert_close(known[0], torch.tensor([0.5, -1.5], dtype=torch.float64), atol=1e-6, rtol=0)
    assert known[1].abs().max() < 1e-3
