"""Nothing is made on the wrong device: stages run with tensors that torch only pretends to have on CUDA."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nest_nerfstudio.dynamics.cycle import _speed_at_start, recurrence
from nest_nerfstudio.dynamics.latent_ode import LatentODE, LatentODEConfig
from nest_nerfstudio.dynamics.trajectory import Trajectory, smooth_trajectory
from nest_nerfstudio.fields.bound_gaussians import BoundGaussians
from nest_nerfstudio.geometry.se3 import se3_plus
from nest_nerfstudio.losses.motion import as_rigid_as_possible_loss, nearest_tokens, smoothness_loss
from nest_nerfstudio.losses.photometric import depth_loss
from nest_nerfstudio.models.trainable_latent import TrainableLatent
from nest_nerfstudio.types import SceneLatent

VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
pytestmark = pytest.mark.skipif(VERSION < (2, 11), reason="torch 2.4 crashes in this; tried with 2.11")

TOKENS, GAUSSIANS = 32, 100


class Scene:
    """A scene whose parameters and buffers are pretended to be on a GPU; flags stay what they are."""

    def __init__(self, committed: bool) -> None:
        config = LatentODEConfig()
        self.ode = moved(LatentODE(config))
        self.ode.__dict__["committed"] = committed
        self.latent = moved(TrainableLatent(TOKENS, config.state_dim, config.token_code_dim))
        self.field = moved(BoundGaussians(GAUSSIANS, TOKENS, sh_degree=1))

    @property
    def path(self) -> Trajectory:
        return smooth_trajectory(on_gpu(33, self.ode.config.state_dim))

    def posed(self) -> SceneLatent:
        latent = self.latent()
        twists = self.ode.twists(latent.motion, self.path(on_gpu(1))[0])
        quats, translations = se3_plus((latent.quats, latent.translations), twists)
        return replace(latent, quats=quats, translations=translations)


def on_gpu(*shape: int) -> Tensor:
    return torch.empty(shape, device="cuda")


def moved(module: nn.Module) -> nn.Module:
    """`Module.to` refuses pretended tensors."""
    for part in module.modules():
        for name, value in part._parameters.items():
            part._parameters[name] = None if value is None else nn.Parameter(on_gpu(*value.shape))
        for name, value in list(part._buffers.items()):
            del part._buffers[name]
            part.__dict__[name] = False if value.dtype == torch.bool else on_gpu(*value.shape)
    return module


@pytest.fixture
def pretended() -> Iterator[None]:
    with FakeTensorMode():
        yield


def motion_losses(scene: Scene) -> Tensor:
    posed, rest = scene.posed(), scene.latent().translations
    deltas, neighbors = (posed.quats, posed.translations), nearest_tokens(rest, 4)
    return as_rigid_as_possible_loss(deltas, rest, neighbors, 0.1) + smoothness_loss(deltas, neighbors)


STAGES: dict[str, Callable[[Scene], Tensor]] = {
    "tube loss": lambda s: s.ode.vector_field.tube_loss(s.path, 30.0),
    "free path": lambda s: s.ode._principal_components(s.latent().motion.token_codes)[0].values,
    "roughness": lambda s: s.ode.roughness(),
    "orbit": lambda s: s.ode.oscillator.orbit(on_gpu(16))(on_gpu(5)),
    "oscillator": lambda s: s.ode.oscillator(None, on_gpu(16)),
    "speed at an end": lambda s: _speed_at_start(s.path),
    "recurrence": lambda s: recurrence(s.path.values),
    "poses": lambda s: s.posed().quats,
    "field": lambda s: s.field(s.posed()).sh,
    "canonical field": lambda s: s.field.canonical().quats,
    "motion losses": motion_losses,
    "depth": lambda s: depth_loss(on_gpu(8, 8, 1), on_gpu(8, 8, 1), on_gpu(8, 8, 1)),
}


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_stays_on_its_device(pretended: None, name: str, committed: bool) -> None:
    assert STAGES[name](Scene(committed)).device.type == "cuda"


def test_a_tensor_on_another_device_is_noticed(pretended: None) -> None:
    with pytest.raises(RuntimeError, match="device"):
        on_gpu(3) + torch.zeros(3)
