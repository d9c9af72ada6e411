"""Small decoded scenes of each kind that pages play, and a model that shows one of them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.dynamics.free_motion import FreeMotion
from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, BoundGaussians
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.states import SunSky
from nest_nerfstudio.types import WORLD, MotionCode, MotionKind, SceneLatent, TimeMap

TOKENS, STATE = 12, 6


def make_latent(kind: MotionKind = "still", geometry: int = 0, appearance: int = COLOR_DIM) -> SceneLatent:
    """Tokens in a unit ball, lit from above, whose motion turns and shifts them by about a fifth."""
    return SceneLatent(
        ids=torch.arange(TOKENS),
        copies=torch.zeros(TOKENS, dtype=torch.long),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(TOKENS, 1),
        translations=0.4 * torch.randn(TOKENS, 3),
        geometry=torch.randn(TOKENS, geometry).index_fill(1, torch.tensor([0])[:geometry], -1.5),
        appearance=0.2 + 0.6 * torch.rand(TOKENS, appearance)
        if geometry
        else torch.zeros(TOKENS, appearance),
        light=sun_sky_light(SunSky(), torch.zeros(3, 9)),
        motion=MotionCode(
            start=torch.randn(STATE),
            modes=0.1 * torch.randn(TOKENS, 6, STATE + 1),
            drift=0.1 * torch.randn(TOKENS, 6),
            scene_code=torch.zeros(0),
            period=torch.tensor(0.7),
            phase=torch.tensor(0.2),
            kind=kind,
        ),
    )


def make_bound(count: int = 400, sh_degree: int = 3) -> tuple[BoundGaussians, SceneLatent]:
    """Free Gaussians on tokens, coloured by position and, a little, by direction."""
    latent = make_latent()
    field = BoundGaussians(count, TOKENS, sh_degree).eval()
    points = 0.5 * torch.randn(count, 3)
    field.initialize(points, (0.5 + points).clamp(0.05, 0.95), opacity=0.7, scale_factor=0.25)
    torch.nn.init.normal_(field.params["features_rest"], std=0.05)
    torch.nn.init.normal_(field.params["quats"])
    field.bind(latent.poses)
    return field, latent


def make_scene(kind: str) -> DecodedScene:
    """still, cyclic, free, looped, doubled, backed (by what stands still), unsettled (before the ODE takes
    over), deformed, or lit."""
    deform = (lambda gaussians, time: gaussians) if kind == "deformed" else None
    return DecodedScene(*make_parts(kind), deform)


def make_parts(kind: str) -> tuple[SceneLatent, Field, Dynamics]:
    """What a scene is decoded from."""
    flow = LatentFlow(LatentFlowConfig(state_dim=STATE, hidden_dim=16))
    for vector_field in (flow.vector_field, flow.backward_field):
        torch.nn.init.normal_(vector_field.layers[-1].weight, std=0.3)  # type: ignore[arg-type]
    if kind == "lit":
        field = LatentGaussianFieldConfig(gaussians_per_token=30, hidden_dim=16).setup(geometry_dim=10).eval()
        for parameter in field.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        return make_latent("cyclic", geometry=10, appearance=24), field, flow
    field, latent = make_bound()
    if kind == "unsettled":
        free = FreeMotion(TOKENS, state_dim=4, token_code_dim=6, hidden_dim=16, num_nodes=33)
        torch.nn.init.normal_(free.token_codes)
        torch.nn.init.normal_(free.pose_decoder.head[-1].weight, std=0.05)  # type: ignore[arg-type]
        return latent, field, free
    if kind == "doubled":
        latent = latent.duplicate(torch.arange(TOKENS), (latent.quats[0], torch.tensor([1.5, 0.0, 0.0])))
    if kind == "backed":
        latent = replace(latent, ids=latent.ids.clone().index_fill_(0, torch.tensor(TOKENS - 1), WORLD))
    moved: MotionKind = "free" if kind in ("free", "looped") else "cyclic"
    moves = kind in ("cyclic", "doubled", "backed", "free", "looped")
    clock = TimeMap(speed=0.8, offset=0.1, loop=(0.1, 0.9), fade=0.3) if kind == "looped" else TimeMap()
    motion = replace(latent.motion, kind=moved if moves else "still", time_map=clock)
    return replace(latent, motion=motion), field, flow


class FakeModel:
    """A model of one scene."""

    def __init__(self, scene: DecodedScene) -> None:
        self.decoded = scene
        self.config = SimpleNamespace(playback_seconds=3.0, rasterize_mode="classic")

    def scene(self) -> DecodedScene:
        return self.decoded

    shown_scene = scene

    def shows_alpha(self) -> bool:
        return True

    def shown_background(self, has_alpha: bool) -> Tensor:
        return torch.tensor([1.0, 0.9, 0.8])
