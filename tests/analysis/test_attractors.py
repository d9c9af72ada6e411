"""Attractors of autoencoders: constructed ones, what theory says, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nest_nerfstudio.analysis.attractors import Attractors, study
from nest_nerfstudio.analysis.autoencoders import AutoencoderConfig, ExamplesConfig, load_autoencoder, train
from nest_nerfstudio.analysis.basins import BasinConfig, basin_plane, find_basins

SMALL = ExamplesConfig(examples=3, dim=4)
FEW = BasinConfig(starts=60, perturbations=4)


def staircase(levels: Tensor, slope: float = 20.0) -> nn.Sequential:
    """A ReLU network of one hidden layer, constant around each level and steep half-way between two."""
    middles = (levels[1:] + levels[:-1]) / 2
    half = (levels[1:] - levels[:-1]) / (2 * slope)
    kinks = torch.stack([middles - half, middles + half], 1).flatten()
    network = nn.Sequential(nn.Linear(1, len(kinks)), nn.ReLU(), nn.Linear(len(kinks), 1)).double()
    network[0].weight.data.fill_(1)
    network[0].bias.data.copy_(-kinks)
    network[2].weight.data.copy_(torch.tensor([slope, -slope]).repeat(len(middles)))
    network[2].bias.data.fill_(float(levels[0]))
    return network


def test_constructed_attractors_are_found_with_their_basins() -> None:
    """Also: a global minimum of a ReLU autoencoder, all of whose examples are attractors, exists."""
    levels = torch.tensor([0.0, 1.0, 3.0, 4.0]).double()
    generator = torch.Generator().manual_seed(0)
    found = find_basins(
        staircase(levels),
        levels[:, None],
        lambda count: 4 * torch.rand(count, 1, generator=generator).double(),
        BasinConfig(starts=1000),
        generator,
    )
    assert found.is_attractor.all()
    assert found.radii.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(
        found.shares, torch.tensor([0.5, 1.5, 1.5, 0.5]).double() / 4, rtol=0, atol=0.03
    )
    assert not found.spurious


def test_identity_has_no_attractors() -> None:
    """A global minimum none of whose examples is an attractor exists too, at any depth."""
    wide = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(4, 8, bias=False).double(), nn.ReLU(), nn.Linear(8, 4, bias=False).double()]
        layers[-3].weight.data.copy_(wide)
        layers[-1].weight.data.copy_(wide.T)
    generator = torch.Generator().manual_seed(0)
    examples = torch.rand(3, 4, generator=generator).double()
    network = nn.Sequential(*layers)
    found = find_basins(
        network, examples, lambda count: torch.rand(count, 4, generator=generator).double(), FEW, generator
    )
    assert found.returns.all()
    assert not found.is_attractor.any()
    assert found.radii.tolist() == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("activation", ["relu", "leaky-relu"])
def test_fixed_points_without_bias_have_the_eigenvalue_one(activation: str) -> None:
    """f(cx) = c f(x) for c ≥ 0, so J(x) x = f(x): no fixed point of such a network attracts."""
    torch.manual_seed(0)
    config = AutoencoderConfig(depth=7, width=24, activation=activation, init="kaiming")  # type: ignore[arg-type]
    network = config.build(6).double()
    x = torch.rand(6).double()
    jacobian = torch.func.jacrev(network)(x)
    torch.testing.assert_close(jacobian @ x, network(x))
    torch.testing.assert_close(network(3 * x), 3 * network(x))


def trained_width_one(targets: list[float], networks: int = 300) -> tuple[Tensor, Tensor, Tensor]:
    """Many ReLU networks of width 1, two to four linear layers deep, on the examples 0, 1, 2.

    Returns:
        Outputs, derivatives, mean squared errors.
    """
    examples = torch.tensor([0.0, 1.0, 2.0]).double().expand(networks, 3)
    weights, biases = (torch.randn(4, networks, 1).double().requires_grad_() for _ in range(2))

    def function(x: Tensor) -> Tensor:
        for layer in range(3):
            hidden = (weights[layer] * x + biases[layer]).relu()
            x = torch.where(torch.arange(networks)[:, None] % 3 >= layer, hidden, x)
        return weights[3] * x + biases[3]

    optimizer = torch.optim.Adam([weights, biases], 0.03)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.995)
    for _ in range(1200):
        errors = (function(examples) - torch.tensor(targets).double()).square().mean(1)
        optimizer.zero_grad()
        errors.sum().backward()
        optimizer.step()
        decay.step()
    states = examples.clone().requires_grad_()
    outputs = function(states)
    return outputs.detach(), torch.autograd.grad(outputs.sum(), states)[0], errors.detach()


def test_networks_of_width_one_do_not_make_three_examples_attract() -> None:
    """docs/attractors.md: at any depth f is a clamped affine map, of slope ≥ 1 at the middle example."""
    _, slopes, errors = trained_width_one([0.0, 1.0, 2.0])
    slopes = slopes[errors < 1e-6]
    assert len(slopes) > 20
    assert slopes[:, 1].min() > 1 - 1e-2
    assert (slopes[:, [0, 2]] == 0).all(1).any()  # both ends attract at some of these global minima


def test_closest_point_of_a_cycle_at_width_one() -> None:
    """docs/attractors.md: of 0 → 1 → 2 → 0 it is (3/2, 3/2, 0), at any depth."""
    outputs, _, errors = trained_width_one([1.0, 2.0, 0.0])
    assert errors.min() > 1 / 6 - 1e-9
    assert errors.min() < 1 / 6 + 1e-4
    torch.testing.assert_close(
        outputs[errors.argmin()], torch.tensor([1.5, 1.5, 0.0]).double(), rtol=0, atol=0.02
    )


def test_trains_and_loads(tmp_path: Path) -> None:
    config = AutoencoderConfig(width=32, depth=4, learning_rate=1e-3)
    trained = train(config, SMALL, seed=1)
    assert trained.converged
    torch.save(trained.state(), tmp_path / "autoencoder.pt")
    loaded = load_autoencoder(tmp_path / "autoencoder.pt")
    states = torch.rand(5, 4)
    torch.testing.assert_close(loaded.function(states), trained.function(states))
    assert (loaded.config, loaded.data) == (config, SMALL)
    torch.testing.assert_close(study(loaded, FEW, 0).radii, study(trained, FEW, 0).radii)


def test_sequence_encoder_has_its_multiplier() -> None:
    data = ExamplesConfig(examples=3, dim=4, sequence=True)
    trained = train(AutoencoderConfig(width=32, depth=4, learning_rate=1e-3), data)
    product = torch.eye(4)
    for state in trained.examples:
        product = torch.func.jacrev(trained.network)(state) @ product
    multiplier = torch.linalg.eigvals(product).abs().max()
    found = study(trained, FEW, 0)
    torch.testing.assert_close(found.radii, multiplier.expand(3), rtol=0.02, atol=0.02)


def test_unconverged_autoencoder_is_refused(tmp_path: Path) -> None:
    command = Attractors(output=tmp_path, model=AutoencoderConfig(max_steps=3))
    with pytest.raises(ValueError, match=r"did not converge: MSE .* after 3 steps, target 1e-08"):
        command.run()
    assert not list(tmp_path.iterdir())


def test_sweep_leaves_out_what_has_not_converged() -> None:
    model = AutoencoderConfig(width=32, learning_rate=1e-3, target_mse=1e-4)
    command = Attractors(
        sweep=("depth", "activation"), depths=(2, 3), activations=("tanh", "selu"), seeds=1, data=SMALL,
        model=model, basins=FEW,
    )  # fmt: skip
    report = command.run()
    settings = [(row["activation"], row["depth"], row["converged"]) for row in report.rows]
    assert settings == [(name, depth, "1 of 1") for name in ("tanh", "selu") for depth in (2, 3)]
    assert report.plots.keys() == {"sweep"}
    failing = Attractors(
        sweep=("depth",), depths=(4,), seeds=1, data=SMALL, model=replace(model, max_steps=1)
    )
    row = failing.run().rows[0]
    assert (row["converged"], row["attractors"]) == ("0 of 1", "–")


def test_plane_goes_through_the_examples() -> None:
    """Of a map that sends each state to the nearest example, the plane is a Voronoi diagram."""
    examples = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))

    def function(x: Tensor) -> Tensor:
        return examples[torch.cdist(x, examples).argmin(1)]

    plane = basin_plane(function, examples, 20, FEW)
    torch.testing.assert_close(torch.cdist(plane.points, plane.points), torch.cdist(examples, examples))
    assert (plane.periods == 1).all()
    for index, (x, y) in enumerate(plane.points.tolist()):
        left, right, bottom, top = plane.extent
        column, row = int((x - left) / (right - left) * 19.99), int((y - bottom) / (top - bottom) * 19.99)
        assert plane.reached[row, column] == index


def test_images_as_examples(tmp_path: Path) -> None:
    from PIL import Image

    for shade in (10, 200):
        Image.new("RGB", (8, 8), (shade, 0, 255)).save(tmp_path / f"{shade}.png")
    made = ExamplesConfig(data=tmp_path, examples=2, image_size=3).make(torch.Generator())
    assert made.shape == (2, 27)
    torch.testing.assert_close(made[0, :3], torch.tensor([10 / 255, 0, 1]))
    with pytest.raises(ValueError, match="has 2 images; --examples asks for 4"):
        ExamplesConfig(data=tmp_path).make(torch.Generator())
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        ExamplesConfig(data=tmp_path / "none").make(torch.Generator())
    (tmp_path / "20.png").write_bytes((tmp_path / "200.png").read_bytes())
    with pytest.raises(ValueError, match="two of the 3 examples are equal"):
        ExamplesConfig(data=tmp_path, examples=3).make(torch.Generator())


def test_other_files_are_no_autoencoders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no autoencoder at"):
        load_autoencoder(tmp_path / "none.pt")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"is no autoencoder\.pt"):
        load_autoencoder(tmp_path / "other.pt")
