"""Nothing is made on the wrong device: stages run with tensors that torch only pretends to have on CUDA."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.fitter import LatentFlowFitter, LatentFlowFitterConfig
from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.orbit import Orbit, oscillator_field
from nest_nerfstudio.dynamics.recurrence import _speed_at_start, recurrence
from nest_nerfstudio.dynamics.trajectory import Trajectory, smooth_trajectory
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, BoundGaussians
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.se3 import se3_compose, se3_inverse
from nest_nerfstudio.losses.motion import as_rigid_as_possible_loss, smoothness_loss
from nest_nerfstudio.losses.photometric import depth_loss
from nest_nerfstudio.models.latent_parameters import KINDS, LatentParameters
from nest_nerfstudio.types import MotionCode, MotionKind, SceneLatent

VERSION = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
pytestmark = pytest.mark.skipif(VERSION < (2, 11), reason="torch 2.4 crashes in this; tried with 2.11")

TOKENS, GAUSSIANS = 32, 100
STAGES_OF_TRAINING = ("free fit", "roll-out", "cycle")


class Scene:
    """A scene whose parameters and buffers are pretended to be on a GPU; flags stay what they are."""

    def __init__(self, stage: str) -> None:
        config = LatentFlowConfig()
        self.stage, self.dim = stage, config.state_dim
        self.flow: LatentFlow = moved(LatentFlow(config))
        self.fitter: LatentFlowFitter = moved(LatentFlowFitter(LatentFlowFitterConfig(), config, TOKENS))
        kind: MotionKind = {"free fit": "still", "roll-out": "free", "cycle": "cyclic"}[stage]
        self.parameters = moved(LatentParameters(_latent(config.state_dim, kind), ("poses", "motion")))
        self.parameters.__dict__["kind"] = KINDS.index(kind)
        self.field = moved(WholeField(GAUSSIANS, TOKENS, sh_degree=1))

    @property
    def path(self) -> Trajectory:
        curve = smooth_trajectory(on_gpu(33, self.dim))
        return Sampled(curve.t0, curve.t1, curve.values, curve.slopes)

    def posed(self) -> tuple[Tensor, Tensor]:
        """Poses at a time, by what moves the scene at its stage of training."""
        latent = self.parameters()
        dynamics: Dynamics = self.fitter.free if self.stage == "free fit" else self.flow
        path = dynamics.solve(latent.motion) if self.stage == "cycle" else self.path
        return dynamics.poses(latent, path, on_gpu())


class Sampled(Trajectory):
    """Read at a list of one time: torch reads an index without dimensions back from the device."""

    def __call__(self, times: Tensor) -> Tensor:
        return super().__call__(times[None])[0]


class WholeField(BoundGaussians):
    """Does not compare ids, which have no values here, and neither do colour codes."""

    def _is_whole(self, latent: SceneLatent) -> bool:
        return True


def _latent(state_dim: int, kind: MotionKind) -> SceneLatent:
    zeros = torch.zeros(TOKENS, 3)
    motion = MotionCode.still(TOKENS, zeros, state_dim)
    return SceneLatent(
        ids=torch.arange(TOKENS),
        copies=torch.zeros(TOKENS, dtype=torch.long),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(TOKENS, 1),
        translations=zeros,
        geometry=torch.zeros(TOKENS, 0),
        appearance=torch.zeros(TOKENS, COLOR_DIM),
        light=torch.zeros(3, 9),
        motion=replace(motion, kind=kind),
    )


def on_gpu(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="cuda", dtype=dtype)


def moved(module: nn.Module):
    """`Module.to` refuses pretended tensors. Flags and counters, which are read as numbers, stay values."""
    for part in module.modules():
        for name, value in part._parameters.items():
            part._parameters[name] = None if value is None else nn.Parameter(on_gpu(*value.shape))
        for name, value in list(part._buffers.items()):
            del part._buffers[name]
            is_flag = value.ndim == 0 and not value.is_floating_point()
            part.__dict__[name] = FLAGS[name] if is_flag else on_gpu(*value.shape, dtype=value.dtype)
    return module


FLAGS = {"rolls_out": False, "has_seen_twists": False, "learn_period": True, "kind": 0}


@pytest.fixture(params=[False, True], ids=["colours as they are", "recoloured"])
def pretended(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.Tensor, "any", lambda self, *_, **__: request.param)  # of the colour codes
    with FakeTensorMode():
        yield


def motion_losses(scene: Scene) -> Tensor:
    rest = scene.field.bind_translations
    deltas = se3_compose(scene.posed(), se3_inverse((scene.field.bind_quats, rest)))
    neighbors = on_gpu(TOKENS, 4, dtype=torch.long)
    return as_rigid_as_possible_loss(deltas, rest, neighbors, 0.1) + smoothness_loss(deltas, neighbors)


STAGES: dict[str, Callable[[Scene], Tensor]] = {
    "tube loss": lambda s: s.flow.vector_field.tube_loss(s.path, 30.0),
    "attraction": lambda s: s.flow.attraction_loss(s.path, 30.0),
    "free path": lambda s: s.fitter._principal_components(s.fitter.free.observed_twists(33), s.dim)[0].values,
    "observed motion": lambda s: s.fitter.free.observed_twists(5),
    "roughness": lambda s: s.fitter.roughness(),
    "orbit": lambda s: Orbit(on_gpu(), on_gpu(16), on_gpu())(on_gpu(5)),
    "oscillator": lambda s: oscillator_field(on_gpu(16), on_gpu()),
    "speed at an end": lambda s: _speed_at_start(s.path),
    "recurrence": lambda s: recurrence(s.path.values),
    "latent": lambda s: s.parameters().quats,
    "twists": lambda s: s.flow.twists(s.parameters(), on_gpu(s.dim)),
    "poses": lambda s: s.posed()[0],
    "field": lambda s: s.field(s.parameters()).rest.sh,
    "posed field": lambda s: pose(s.field(s.parameters()), s.posed(), s.parameters().light).means,
    "field at rest": lambda s: s.field.rest().quats,
    "motion losses": motion_losses,
    "depth": lambda s: depth_loss(on_gpu(8, 8, 1), on_gpu(8, 8, 1), on_gpu(8, 8, 1)),
}


@pytest.mark.parametrize("stage", STAGES_OF_TRAINING)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_stays_on_its_device(pretended: None, name: str, stage: str) -> None:
    assert STAGES[name](Scene(stage)).device.type == "cuda"


def test_a_tensor_on_another_device_is_noticed(pretended: None) -> None:
    with pytest.raises(RuntimeError, match="device"):
        on_gpu(3) + torch.zeros(3)
