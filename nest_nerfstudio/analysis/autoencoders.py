"""Multilayer perceptrons that map examples to themselves, or each to the next, trained to a given error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from PIL import Image
from rich.progress import track
from torch import Tensor, nn

from nest_nerfstudio.analysis.maps import Map, compose

ActivationName = Literal["selu", "relu", "leaky-relu", "elu", "gelu", "silu", "tanh"]
InitName = Literal["default", "xavier", "kaiming", "orthogonal"]
OptimizerName = Literal["adam", "rmsprop", "sgd"]
DataName = Literal["uniform", "gaussian"]

ACTIVATIONS: dict[ActivationName, Callable[[], nn.Module]] = {
    "selu": nn.SELU,
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
PATIENCE = 500
"""Steps without a gain of 1 % after which the learning rate is halved."""
EXPLAINED = 0.99
"""Share of the targets' variance from which on it is: deep networks wait on plateaus before."""


@dataclass(frozen=True)
class ExamplesConfig:
    """The examples that an autoencoder is trained on."""

    data: DataName | Path = "uniform"
    """Random vectors, uniform in [0, 1] or standard normal, or a folder of images."""
    examples: int = 4
    """Number of examples; of a folder, its first images by name."""
    dim: int = 32
    """Size of a random vector."""
    image_size: int = 16
    """Images are resized to a square of this many pixels; an example is its red, green and blue values."""
    sequence: bool = False
    """Train a sequence encoder: each example is mapped to the next one and the last to the first."""

    def make(self, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """The examples.

        Raises:
            ValueError: fewer than 2 examples or images, or two that are equal.
            FileNotFoundError: no such folder.
        """
        if self.examples < 2:
            raise ValueError(f"--examples must be 2 or more, got {self.examples}")
        if self.data in get_args(DataName):
            made = self.draw(self.examples, self.dim, generator)
        else:
            made = self._images(Path(self.data))
        if (torch.pdist(made) == 0).any():
            raise ValueError(
                f"two of the {len(made)} examples are equal; name other data, or fewer --examples"
            )
        return made

    def draw(self, count: int, dim: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Random vectors from where the data lie: standard normal for "gaussian", else uniform in [0, 1]."""
        if self.data == "gaussian":
            return torch.randn(count, dim, generator=generator)
        return torch.rand(count, dim, generator=generator)

    def _images(self, folder: Path) -> Float[Tensor, "n d"]:
        if not folder.is_dir():
            raise FileNotFoundError(f"--data {folder} is no folder of images, nor uniform or gaussian")
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if len(paths) < self.examples:
            raise ValueError(f"{folder} has {len(paths)} images; --examples asks for {self.examples}")
        size = (self.image_size, self.image_size)
        images = [np.asarray(Image.open(path).convert("RGB").resize(size)) for path in paths[: self.examples]]
        return torch.from_numpy(np.stack(images)).flatten(1).float() / 255


@dataclass(frozen=True)
class AutoencoderConfig:
    """A multilayer perceptron and its training."""

    depth: int = 6
    """Number of linear layers; there is an activation between each two."""
    width: int = 256
    """Size of the hidden layers."""
    activation: ActivationName = "selu"
    """Activation function."""
    bias: bool = False
    """Whether layers have a bias. ReLU networks without one have no attractors: docs/attractors.md."""
    init: InitName = "default"
    """Initial weights: those of nn.Linear, Xavier uniform, Kaiming normal (of ReLU), or orthogonal."""
    optimizer: OptimizerName = "adam"
    """Optimizer, on all examples at once; sgd has momentum 0.9."""
    learning_rate: float = 1e-4
    """Learning rate at the start; near the end it is halved after 500 steps without a gain of 1 %."""
    target_mse: float = 1e-8
    """Mean squared error, over examples and entries, at which training ends."""
    max_steps: int = 20_000
    """Training steps after which an autoencoder has not converged."""

    def build(self, dim: int) -> nn.Sequential:
        """An untrained network.

        Raises:
            ValueError: fewer than 1 layer, or layers without neurons.
        """
        if self.depth < 1 or self.width < 1:
            raise ValueError(f"--depth and --width must be 1 or more, got {self.depth} and {self.width}")
        sizes = [dim, *[self.width] * (self.depth - 1), dim]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            layers += [self._linear(fan_in, fan_out), ACTIVATIONS[self.activation]()]
        return nn.Sequential(*layers[:-1])

    def optimizer_of(self, network: nn.Module) -> torch.optim.Optimizer:
        """Of the weights of a network."""
        parameters, rate = network.parameters(), self.learning_rate
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, rate, fused=True)
        if self.optimizer == "rmsprop":
            return torch.optim.RMSprop(parameters, rate)
        return torch.optim.SGD(parameters, rate, momentum=0.9)

    def _linear(self, fan_in: int, fan_out: int) -> nn.Linear:
        layer = nn.Linear(fan_in, fan_out, bias=self.bias)
        if self.init == "xavier":
            nn.init.xavier_uniform_(layer.weight)
        elif self.init == "kaiming":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif self.init == "orthogonal":
            nn.init.orthogonal_(layer.weight)
        return layer


@dataclass(frozen=True)
class Autoencoder:
    """A trained autoencoder, or sequence encoder.

    Attributes:
        network: in evaluation mode, without gradients.
        examples: x_i.
        config: of network and training.
        data: where the examples come from.
        mse: mean squared error reached.
        steps: of training.
    """

    network: nn.Module
    examples: Float[Tensor, "n d"]
    config: AutoencoderConfig
    data: ExamplesConfig
    mse: float
    steps: int

    @property
    def converged(self) -> bool:
        """Whether the target error was reached."""
        return self.mse <= self.config.target_mse

    @property
    def function(self) -> Map:
        """The map whose fixed points the examples are: f, or of a sequence encoder f ∘ … ∘ f once round."""
        return compose(self.network, len(self.examples)) if self.data.sequence else self.network

    def require_converged(self) -> None:
        """ValueError where the target error was not reached."""
        if not self.converged:
            raise ValueError(
                f"the autoencoder did not converge: MSE {self.mse:.1e} after {self.steps} steps, target "
                f"{self.config.target_mse:.0e}. Its examples are no fixed points, so they are no attractors; "
                "raise --max-steps or --width, or change --optimizer, --learning-rate or --init"
            )

    def state(self) -> dict[str, Any]:
        """What `load_autoencoder` reads, for torch.save."""
        return {
            "config": asdict(self.config),
            "data": {**asdict(self.data), "data": str(self.data.data)},
            "examples": self.examples,
            "weights": self.network.state_dict(),
            "mse": self.mse,
            "steps": self.steps,
        }


def load_autoencoder(path: Path) -> Autoencoder:
    """An autoencoder that `nest-analyze attractors` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no autoencoder at {path}; give the autoencoder.pt of nest-analyze attractors"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        config, data = AutoencoderConfig(**state["config"]), ExamplesConfig(**state["data"])
        network = config.build(state["examples"].shape[1])
        network.load_state_dict(state["weights"])
        network.eval().requires_grad_(False)
        return Autoencoder(network, state["examples"], config, data, state["mse"], state["steps"])
    except (KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"{path} is no autoencoder.pt of nest-analyze attractors") from error


def train(
    config: AutoencoderConfig, data: ExamplesConfig, seed: int = 0, progress: str | None = None
) -> Autoencoder:
    """Train until the target error or the last step.

    Args:
        config: network and training.
        data: the examples.
        seed: of examples and weights.
        progress: text beside a progress bar; None shows none.
    """
    with torch.random.fork_rng([]):
        examples = data.make(torch.manual_seed(seed))
        network = config.build(examples.shape[1])
    targets = examples.roll(-1, 0) if data.sequence else examples
    optimizer = config.optimizer_of(network)
    decay = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=PATIENCE, threshold=0.01
    )
    mse, step, below = math.inf, 0, (1 - EXPLAINED) * float(targets.var())
    steps = range(config.max_steps + 1)
    for step in track(steps, progress or "", disable=progress is None, transient=True, console=CONSOLE):
        loss = (network(examples) - targets).square().mean()
        mse = loss.item()
        if mse <= config.target_mse or not math.isfinite(mse) or step == config.max_steps:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if mse < below:
            decay.step(mse)
    return Autoencoder(network.eval().requires_grad_(False), examples, config, data, mse, step)
