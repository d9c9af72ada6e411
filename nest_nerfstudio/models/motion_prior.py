"""What many scenes share of their motion: a map from codes to tokens, and two ways to find codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.dynamics.flow import LatentFlow
from nest_nerfstudio.dynamics.motion_map import NUM_AXES, MotionMap, MotionMapConfig
from nest_nerfstudio.dynamics.orbit import orbit_start
from nest_nerfstudio.encoders.inputs import sort_views
from nest_nerfstudio.encoders.motion_encoder import MotionEncoder, MotionEncoderConfig
from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.latent_optimization import take_steps
from nest_nerfstudio.models.latent_parameters import LatentParameters, detached
from nest_nerfstudio.types import MotionCode, SceneLatent, Views

Loss = Callable[[DecodedScene, Views], Tensor]
"""Error of a moving scene against frames of it."""
_CODE = ("scene_code", "period", "phase")


@dataclass
class MotionPriorConfig(InstantiateConfig):
    """Settings of `MotionPrior`."""

    _target: type = field(default_factory=lambda: MotionPrior)
    code: Literal["encoder", "steps", "hybrid"] = "encoder"
    """How the motion code of a scene is found. encoder: read from frames; steps: gradient steps on the code
    alone, from a learned start; hybrid: such steps from the encoder's code. Training with steps is
    first-order meta-learning (MAML): start, map and field learn to be good after the steps."""
    num_steps: int = 4
    """Gradient steps in training, one frame each, unless the code is the encoder's."""
    shown_steps: int = 40
    """Gradient steps for scenes that are shown and scored."""
    step_size: float = 0.05
    """Learning rate of these steps; it falls to a tenth."""
    encoder: MotionEncoderConfig = field(default_factory=MotionEncoderConfig)
    """Encoder of frames at other times."""
    map: MotionMapConfig = field(default_factory=MotionMapConfig)
    """Map from codes to the motion of tokens."""


@dataclass(frozen=True)
class SharedMap:
    """Motions of scenes that stand at rest at time 0, for edits (`edits.mixing.SharedMotion`).

    Attributes:
        map: gives the modes of tokens.
        flow: leads the state.
    """

    map: MotionMap
    flow: LatentFlow

    @torch.no_grad()
    def retarget(self, latent: SceneLatent, motion: MotionCode) -> SceneLatent:
        """The scene with the motion code of another, and the modes that its own tokens have under it."""
        parts = {name: getattr(motion, name).to(latent.quats) for name in (*_CODE, "start", "modes")}
        return self.map(replace(latent, motion=replace(motion, **parts)), self.flow)

    @torch.no_grad()
    def generate(self, latent: SceneLatent, seed: int, spread: float) -> SceneLatent:
        """The scene with a motion drawn from those of the training scenes."""
        moved = self.map(self.map.sample(latent, seed, spread), self.flow)
        return replace(moved, motion=replace(moved.motion, time_map=latent.motion.time_map))


class MotionPrior(nn.Module):
    """The motion of any scene from frames of it: a code, then the modes of its tokens by the shared map.

    Args:
        config: its settings.
        flow: the shared vector field, which begins as an oscillator.
        geometry_dim: size of a token's geometry code.
        knows_gravity: the vertical is z in all scenes.
    """

    def __init__(
        self, config: MotionPriorConfig, flow: LatentFlow, geometry_dim: int, knows_gravity: bool
    ) -> None:
        super().__init__()
        self.config = config
        code_dim, state_dim = flow.config.scene_code_dim, flow.config.state_dim
        self.map: MotionMap = config.map.setup(
            geometry_dim=geometry_dim, code_dim=code_dim, state_dim=state_dim, knows_gravity=knows_gravity
        )
        if config.code != "steps":
            self.encoder: MotionEncoder = config.encoder.setup(
                geometry_dim=geometry_dim, code_dim=code_dim, num_axes=NUM_AXES
            )
        start = orbit_start(state_dim, self.map.start_code)
        flow.vector_field.start_as_oscillator(start, 1.0)
        flow.backward_field.start_as_oscillator(start, -1.0)

    def forward(
        self, latent: SceneLatent, field: Field, flow: LatentFlow, frames: Views, rest: float, loss: Loss
    ) -> SceneLatent:
        """The scene with the motion that the frames show.

        Args:
            latent: at rest.
            field: decodes it.
            flow: leads its state.
            frames: one or more, with images and times.
            rest: time at which the tokens stand so.
            loss: of the scene and some frames, which gradient steps lower.
        """
        begun = self.map.begin(latent)
        if self.config.code != "steps":
            axes = self.map.axes(latent)
            code = self.encoder(begun, axes, *self.map.coordinates(latent, axes), frames, rest)
            begun = replace(begun, motion=code)
        steps = self.config.num_steps if self.training else self.config.shown_steps
        if self.config.code != "encoder":
            begun = replace(begun, motion=self._adapted(begun, field, flow, frames, rest, loss, steps))
        return self.map(begun, flow, rest)

    def shared(self, flow: LatentFlow) -> SharedMap:
        """What edits of scenes need of it."""
        return SharedMap(self.map, flow)

    def fit(
        self,
        latent: SceneLatent,
        field: Field,
        flow: LatentFlow,
        frames: Views,
        rest: float,
        loss: Loss,
        steps: int,
    ) -> SceneLatent:
        """Gradient steps on the code of a scene alone, one frame each; arguments as for `forward`.

        Args:
            latent: with the code to start from.
            steps: how many.
        """
        start, frames = detached(latent), sort_views(frames)  # so that their order does not matter
        with torch.enable_grad():
            parameters = LatentParameters.from_latent(start, ("motion_code",))
            scene = DecodedScene(start, field, flow)

            def error(step: int) -> Tensor:
                i = step % len(frames)
                moved = scene.moving_as(self.map(parameters(), flow, rest).motion)
                return loss(moved, frames.select(slice(i, i + 1)))

            unused = {"log_period"} if start.motion.kind == "free" else set()  # the field has its own speed
            learned = [value for name, value in parameters.named_parameters() if name not in unused]
            rates = [(learned, self.config.step_size)]
            take_steps(rates, error, steps, final_ratio=0.1)
        return detached(parameters())

    def _adapted(self, latent: SceneLatent, *arguments) -> MotionCode:
        """The code after gradient steps, as far from its start as it is, which alone gets gradients."""
        before, after = latent.motion, self.fit(latent, *arguments).motion
        moved = {
            name: getattr(before, name) + (getattr(after, name) - getattr(before, name)).detach()
            for name in _CODE
        }
        return replace(before, **moved)
