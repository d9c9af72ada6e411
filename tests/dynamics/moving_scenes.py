"""Scenes, flows and fitters that the tests of dynamics share."""

import math
from dataclasses import replace

import torch

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.fitter import LatentFlowFitter, LatentFlowFitterConfig
from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.free_motion import FreeMotion
from nest_nerfstudio.dynamics.vector_field import VectorField
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.geometry.se3 import Pose
from nest_nerfstudio.types import MotionCode, MotionKind, SceneLatent


def make_latent(
    num_tokens: int = 5,
    dtype: torch.dtype = torch.float32,
    state_dim: int = 4,
    kind: MotionKind = "free",
    code_dim: int = 0,
) -> SceneLatent:
    """A random scene that does not travel; if it is cyclic, its period is half a clip."""

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype)

    return SceneLatent(
        ids=torch.arange(num_tokens),
        copies=torch.zeros(num_tokens, dtype=torch.long),
        quats=quat_normalize(rand(num_tokens, 4)),
        translations=rand(num_tokens, 3),
        geometry=rand(num_tokens, 2),
        appearance=rand(num_tokens, 2),
        light=rand(3, 9),
        motion=MotionCode(
            start=rand(state_dim),
            modes=rand(num_tokens, 6, state_dim + 1),
            drift=torch.zeros(num_tokens, 6, dtype=dtype),
            scene_code=rand(code_dim),
            period=torch.tensor(0.5, dtype=dtype),
            phase=torch.zeros((), dtype=dtype),
            kind=kind,
        ),
    )


def make_flow(dtype: torch.dtype = torch.float32, **settings) -> LatentFlow:
    """A flow with random fields, on states of four numbers if no other size is asked for."""
    flow = LatentFlow(LatentFlowConfig(**{"state_dim": 4, "hidden_dim": 16, **settings})).to(dtype)
    for vector_field in (flow.vector_field, flow.backward_field):
        torch.nn.init.normal_(vector_field.layers[-1].weight, std=0.3)  # type: ignore[arg-type]
    return flow


def make_free_motion(dtype: torch.dtype = torch.float32, num_tokens: int = 5) -> FreeMotion:
    """A free motion with random codes and a random decoder."""
    free = FreeMotion(num_tokens, state_dim=4, token_code_dim=6, hidden_dim=16, num_nodes=33)
    torch.nn.init.normal_(free.token_codes)
    torch.nn.init.normal_(free.pose_decoder.head[-1].weight, std=0.3)  # type: ignore[arg-type]
    return free.to(dtype)


def with_settings(flow: LatentFlow, **settings) -> LatentFlow:
    """The same flow with other settings of its solver, sharing its parameters."""
    other = LatentFlow(replace(flow.config, **settings)).to(flow.vector_field.linear.weight.dtype)
    other.vector_field, other.backward_field = flow.vector_field, flow.backward_field
    return other


def poses_at(dynamics: Dynamics, latent: SceneLatent, time: float) -> Pose:
    """Poses at a clip time, of a path that is long enough for it."""
    path = dynamics.solve(latent.motion, min(0.0, time), max(1.0, time))
    return dynamics.poses(latent, path, latent.quats.new_tensor(time))


class Rotation(VectorField):
    """dz/dt = 2π·turns · J z: known circles."""

    def __init__(self, turns: float) -> None:
        super().__init__(2, 4)
        self.turns = turns

    def forward(self, time, z, code=None):
        return 2 * math.pi * self.turns * torch.stack([-z[..., 1], z[..., 0]], -1)


def circle(turns: float = 1.0, nodes: int = 33) -> torch.Tensor:
    """Nodes of a path that goes round so many times."""
    angle = 2 * math.pi * turns * torch.linspace(0, 1, nodes)[:, None]
    return torch.cat([angle.cos(), angle.sin()], 1)


def put_path(fitter: LatentFlowFitter, values: torch.Tensor) -> None:
    """Let the free path be this, and zero in the components that are not given."""
    with torch.no_grad():
        fitter.free.path_values.zero_()
        fitter.free.path_values[:, : values.shape[1]] = values


def last_layer(fitter: LatentFlowFitter) -> torch.nn.Linear:
    """Of the free fit's pose decoder."""
    layer = fitter.free.pose_decoder.head[-1]
    assert isinstance(layer, torch.nn.Linear)
    return layer


def make_observed(turns: float, state_dim: int = 2, **settings) -> tuple[LatentFlowFitter, LatentFlow]:
    """A fitter whose free fit has found five tokens that go round, and a flow to be fitted to them."""
    flow = LatentFlowConfig(state_dim=state_dim, hidden_dim=32).setup()
    config = LatentFlowFitterConfig(token_code_dim=6, hidden_dim=32, **settings)
    fitter = config.setup(flow=flow.config, num_tokens=5)
    put_path(fitter, circle(turns))
    torch.nn.init.normal_(last_layer(fitter).weight, std=0.1)
    torch.nn.init.normal_(fitter.free.token_codes)
    return fitter, flow
