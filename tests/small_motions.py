"""Bodies that move by a motion map of random weights."""

from dataclasses import replace

import torch

from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.motion_map import MotionMap, MotionMapConfig
from nest_nerfstudio.dynamics.orbit import orbit_start
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.types import MotionCode, SceneLatent

GEOMETRY, CODE, STATE = 12, 5, 6


def body(num_tokens: int = 20, seed: int = 0, dtype: torch.dtype = torch.float64) -> SceneLatent:
    """Tokens of an elongated body with random poses and geometry codes, at rest."""
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    positions = random(num_tokens, 3) * torch.tensor([0.6, 0.2, 0.3], dtype=dtype)
    return SceneLatent(
        ids=torch.arange(num_tokens),
        copies=torch.zeros(num_tokens, dtype=torch.long),
        quats=quat_normalize(random(num_tokens, 4)),
        translations=positions,
        geometry=random(num_tokens, GEOMETRY),
        appearance=torch.zeros(num_tokens, 0, dtype=dtype),
        light=torch.zeros(3, 9, dtype=dtype),
        motion=MotionCode.still(num_tokens, positions),
    )


def motion_map(kind: str = "cyclic", gravity: bool = False) -> tuple[MotionMap, LatentFlow]:
    """A map whose tokens move by about a tenth of the body, and a flow; of fixed random weights, double."""
    torch.manual_seed(0)
    flow = LatentFlow(
        LatentFlowConfig(state_dim=STATE, hidden_dim=16, scene_code_dim=CODE, steps_per_clip=16)
    )
    config = MotionMapConfig(kind=kind, hidden_dim=24)  # type: ignore[arg-type]
    made = MotionMap(config, GEOMETRY, CODE, STATE, knows_gravity=gravity)
    torch.nn.init.normal_(made.head.weight, std=0.02)
    flow.vector_field.start_as_oscillator(orbit_start(STATE, made.start_code), 1.0)
    torch.nn.init.normal_(flow.vector_field.layers[-1].weight, std=0.2)  # type: ignore[arg-type]
    return made.double(), flow.double()


def with_code(latent: SceneLatent, made: MotionMap, seed: int = 0) -> SceneLatent:
    """The body with a random motion code, without modes."""
    begun = made.begin(latent)
    generator = torch.Generator().manual_seed(seed)
    code = torch.randn(CODE, generator=generator, dtype=torch.float64).to(latent.translations)
    motion = replace(
        begun.motion, scene_code=code, period=code.new_tensor(0.8), phase=code.new_tensor(0.1 + 0.2 * seed)
    )
    return replace(begun, motion=motion)
