"""The convolution over tokens commutes with rotations and permutations, and the test of it can fail."""

import math
from collections.abc import Callable, Iterator
from typing import cast

import pytest
import torch
from e3nn import o3
from torch import Tensor

from nest_nerfstudio.encoders.layers import Interaction, radial_basis

IRREPS, SENT, HARMONICS = (
    cast(o3.Irreps, o3.Irreps(t)) for t in ("8x0e+4x1e+2x2e", "4x0e+2x1e+1x2e", "0e+1e+2e")
)
TOKENS, NEIGHBORS, RADIAL = 12, 4, 6
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


@pytest.fixture(params=[torch.float32, torch.float64])
def dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """Constants of e3nn are made in the default precision, so that is what is set."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def make_layer() -> Interaction:
    return Interaction(IRREPS, SENT, HARMONICS, RADIAL, 16)


def call(layer: Interaction, x: Tensor, positions: Tensor) -> Tensor:
    """The layer on the graph of nearest neighbours."""
    neighbors = torch.cdist(positions, positions).topk(NEIGHBORS + 1, largest=False).indices[:, 1:]
    offsets = positions[neighbors] - positions[:, None]
    harmonics = o3.spherical_harmonics(HARMONICS, offsets, normalize=True, normalization="component")
    shares = torch.full(neighbors.shape, 1 / NEIGHBORS)
    return layer(x, neighbors, shares, harmonics, radial_basis(offsets.norm(dim=-1), RADIAL, 2.0))


def equivariance_error(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, positions: Tensor) -> float:
    """‖f(D x, R p) − D f(x, p)‖ / ‖f‖ for a random rotation."""
    rotation = o3.rand_matrix()
    D = IRREPS.D_from_matrix(rotation)
    expected = function(x, positions) @ D.T
    found = function(x @ D.T, positions @ rotation.T)
    return ((found - expected).norm() / expected.norm()).item()


def test_commutes_with_rotations(dtype: torch.dtype) -> None:
    layer = make_layer()
    x, positions = IRREPS.randn(TOKENS, -1), torch.randn(TOKENS, 3)
    assert equivariance_error(lambda x, p: call(layer, x, p), x, positions) < TOLERANCE[dtype]


def test_a_layer_that_reads_vectors_as_numbers_does_not_commute() -> None:
    """The error that the other test bounds can be large."""
    layer = torch.nn.Linear(IRREPS.dim, IRREPS.dim)
    x, positions = IRREPS.randn(TOKENS, -1), torch.randn(TOKENS, 3)
    assert equivariance_error(lambda x, _: layer(x), x, positions) > 0.1


def test_commutes_with_permutations(dtype: torch.dtype) -> None:
    layer = make_layer()
    x, positions, order = IRREPS.randn(TOKENS, -1), torch.randn(TOKENS, 3), torch.randperm(TOKENS)
    permuted = call(layer, x[order], positions[order])
    torch.testing.assert_close(permuted, call(layer, x, positions)[order], atol=TOLERANCE[dtype], rtol=0)


def test_messages_come_from_neighbours_and_depend_on_where_they_are() -> None:
    layer = make_layer()
    x = IRREPS.randn(3, -1)
    neighbors, shares = torch.tensor([[1], [2], [0]]), torch.ones(3, 1)
    offsets = torch.randn(3, 1, 3)

    def at(offsets: Tensor, x: Tensor) -> Tensor:
        harmonics = o3.spherical_harmonics(HARMONICS, offsets, normalize=True, normalization="component")
        return layer(x, neighbors, shares, harmonics, radial_basis(offsets.norm(dim=-1), RADIAL, 2.0))

    before = at(offsets, x)
    other = x.clone()
    other[2] += 1.0
    changed = (at(offsets, other) - before).abs().amax(1) > 1e-6
    assert changed.tolist() == [False, True, True]  # 0 listens to 1 alone
    assert (at(2 * offsets, x) - before).abs().max() > 1e-4  # distance
    assert (at(-offsets, x) - before).abs().max() > 1e-4  # direction


def test_without_shares_a_token_hears_nothing() -> None:
    layer = make_layer()
    x, neighbors = IRREPS.randn(2, -1), torch.tensor([[1], [0]])
    harmonics, radial = torch.randn(2, 1, HARMONICS.dim), torch.randn(2, 1, RADIAL)
    silent = layer(x, neighbors, torch.zeros(2, 1), harmonics, radial)
    torch.testing.assert_close(silent, layer(x, neighbors, torch.zeros(2, 1), -harmonics, -radial))
    assert (silent - layer(x, neighbors, torch.ones(2, 1), harmonics, radial)).abs().max() > 1e-4


def test_radial_functions_peak_at_even_steps() -> None:
    values = radial_basis(torch.linspace(0, 3.0, 4), 4, 3.0)
    torch.testing.assert_close(values.diagonal(), torch.full((4,), math.sqrt(2)))
    assert values.argmax(1).tolist() == [0, 1, 2, 3]
    torch.testing.assert_close(values[0, 1], torch.tensor(math.sqrt(2) * math.exp(-0.5)))
