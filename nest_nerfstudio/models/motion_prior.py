"""What many scenes share of their motion: a map from codes to tokens, and ways to find codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.dynamics.clip_codes import ClipCodes, code_distance
from nest_nerfstudio.dynamics.flow import LatentFlow
from nest_nerfstudio.dynamics.motion_map import CODE_PARTS, NUM_AXES, MotionMap, MotionMapConfig
from nest_nerfstudio.dynamics.orbit import orbit_start
from nest_nerfstudio.encoders.inputs import some_views, sort_views
from nest_nerfstudio.encoders.motion_encoder import MotionEncoder, MotionEncoderConfig
from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.geometry.se3 import se3_compose, se3_inverse
from nest_nerfstudio.losses.motion import TokenGraph, as_rigid_as_possible_loss
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.latent_optimization import take_steps
from nest_nerfstudio.models.latent_parameters import LatentParameters, detached
from nest_nerfstudio.spread import spread
from nest_nerfstudio.types import MotionCode, SceneLatent, Views

Loss = Callable[[DecodedScene, Views], Tensor]
"""Error of a moving scene against frames of it."""
_MOST_COMPARED = 8
"""Frames by which codes to start from are compared."""
_MOST_STARTS = 64
"""Codes of training clips to start from that are compared."""
_MOST_ASKED = 12
"""Of these, codes that are asked how fast a clip runs."""
_PERIOD_FACTORS = tuple(2 ** (i / 3) for i in range(-3, 6))
"""How much longer than theirs its cycle may be."""
_ENCODER_SHARE = 0.2
"""Share of samples with codes of their own by which the encoder learns to give these: it takes longer than
all else."""
_CODE_PRIOR = 1e-4
"""Weight of the squared length of a clip's own code."""


@dataclass
class MotionPriorConfig(InstantiateConfig):
    """Settings of `MotionPrior`."""

    _target: type = field(default_factory=lambda: MotionPrior)
    code: Literal["encoder", "steps", "hybrid"] = "encoder"
    """How the motion code of a scene is found. encoder: read from frames; steps: gradient steps on the code
    alone, from a learned start; hybrid: such steps from the encoder's code. After training, steps start from
    the code of a training clip, at its own or another speed, where that explains the frames better. Training
    with steps is first-order meta-learning (MAML): start, map and field learn to be good after the steps."""
    clip_codes: float = 0.5
    """Share of training samples that move by a code of their clip, which is learned with the weights (an
    auto-decoder), in place of one that is found as `code` says. The encoder learns to give these codes. 0: no
    clip has a code of its own; 1: none is found in training, so `code` steps is DeepSDF's way."""
    rigidity: float = 0.05
    """Weight of the as-rigid-as-possible loss on tokens that move, so that limbs bend and do not tear."""
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


def rest_time(context: Views) -> float:
    """Time at which all views of a context show a scene at rest."""
    return 0.0 if context.times is None else context.times[0].item()


class MotionPrior(nn.Module):
    """The motion of any scene from frames of it: a code, then the modes of its tokens by the shared map.

    Args:
        config: its settings.
        flow: the shared vector field, which begins as an oscillator.
        geometry_dim: size of a token's geometry code.
        knows_gravity: the vertical is z in all scenes.
        num_clips: number of scenes with codes of their own, if `clip_codes` is not 0.
    """

    def __init__(
        self,
        config: MotionPriorConfig,
        flow: LatentFlow,
        geometry_dim: int,
        knows_gravity: bool,
        num_clips: int = 0,
    ) -> None:
        super().__init__()
        self.config = config
        code_dim, state_dim = flow.config.scene_code_dim, flow.config.state_dim
        self.map: MotionMap = config.map.setup(
            geometry_dim=geometry_dim, code_dim=code_dim, state_dim=state_dim, knows_gravity=knows_gravity
        )
        self.clip_codes = ClipCodes(num_clips if config.clip_codes > 0 else 0, code_dim)
        if config.code != "steps":
            self.encoder: MotionEncoder = config.encoder.setup(
                geometry_dim=geometry_dim, code_dim=code_dim, num_axes=NUM_AXES
            )
        start = orbit_start(state_dim, self.map.start_code)
        flow.vector_field.start_as_oscillator(start, 1.0)
        flow.backward_field.start_as_oscillator(start, -1.0)

    def codes_and_weights(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Parameters that are codes, which may change fast, and all others."""
        codes = [self.map.start_code, self.map.start_log_period, self.clip_codes.rows]
        return codes, [p for p in self.parameters() if all(p is not code for code in codes)]

    def forward(
        self, latent: SceneLatent, field: Field, flow: LatentFlow, frames: Views, rest: float, loss: Loss
    ) -> SceneLatent:
        """The scene with the motion that the frames show, by a code that is found as the settings say.

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
            begun = replace(begun, motion=self._encoded(begun, frames, rest))
        steps = self.config.num_steps if self.training else self.config.shown_steps
        if self.config.code != "encoder":
            if not self.training:
                begun = self._best_start(begun, field, flow, frames, rest, loss)
            begun = replace(begun, motion=self._adapted(begun, field, flow, frames, rest, loss, steps))
        return self.map(begun, flow, rest)

    def _encoded(self, begun: SceneLatent, frames: Views, rest: float) -> MotionCode:
        """The code that the encoder reads from frames, without modes."""
        with torch.no_grad():
            axes = self.map.axes(begun)
            coordinates, size = self.map.coordinates(begun, axes)
        return self.encoder(begun, axes, coordinates, size, frames, rest)

    def draws_own(self, clip: int | None) -> bool:
        """Whether a training sample of this clip is to move by its own code, at random."""
        has_own = clip is not None and len(self.clip_codes.rows) > 0
        return has_own and self.training and float(torch.rand(())) < self.config.clip_codes

    def of_clip(self, latent: SceneLatent, flow: LatentFlow, rest: float, clip: int) -> SceneLatent:
        """The scene with the motion of its clip's own code; arguments as for `forward`."""
        begun = self.map.begin(latent)
        return self.map(replace(begun, motion=self.clip_codes(begun.motion, clip)), flow, rest)

    def regularizers(
        self, scene: DecodedScene, views: Views, frames: Views, rest: float, clip: int | None
    ) -> dict[str, Tensor]:
        """Losses of a training scene that its images do not give.

        Args:
            scene: as it moves.
            views: its images, with times.
            frames: from which the encoder reads its motion.
            rest: time at which it stands at rest.
            clip: whose own code it moves by, if it does.
        """
        assert views.times is not None
        losses = {"rigidity": self.config.rigidity * _rigidity(scene, views.times[0])}
        if clip is not None:
            losses["codes"] = _CODE_PRIOR * self.clip_codes.prior(clip)
            if self.config.code != "steps" and float(torch.rand(())) < _ENCODER_SHARE:
                losses["encoder"] = self.encoder_loss(scene.latent, frames, rest, clip)
        return losses

    def encoder_loss(self, latent: SceneLatent, frames: Views, rest: float, clip: int) -> Tensor:
        """How far the encoder's code is from a clip's own; it teaches the encoder alone."""
        begun = detached(self.map.begin(latent))
        own = detached(replace(begun, motion=self.clip_codes(begun.motion, clip))).motion
        return code_distance(self._encoded(begun, frames, rest), own)

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

    @torch.no_grad()
    def _best_start(
        self, begun: SceneLatent, field: Field, flow: LatentFlow, frames: Views, rest: float, loss: Loss
    ) -> SceneLatent:
        """The scene with the code, of its own and those of training clips, that explains some frames best.

        A clip may run slower or faster than those of the training, so some codes are first asked at which
        speed they explain it best, and all are then compared at that speed too.
        """
        frames = some_views(sort_views(frames), _MOST_COMPARED)
        scene, start = DecodedScene(begun, field, flow), self.map.begin(begun).motion
        codes = [self.clip_codes(start, clip) for clip in spread(self.clip_codes.learned, _MOST_STARTS)]

        def error(code: MotionCode) -> float:
            moving = self.map(replace(begun, motion=code), flow, rest)
            return float(loss(scene.moving_as(moving.motion), frames))

        def with_periods(codes: Sequence[MotionCode], factor: float) -> list[MotionCode]:
            return [replace(code, period=factor * code.period) for code in codes]

        if start.kind == "cyclic" and codes:
            some = spread(codes, _MOST_ASKED)
            factor = min(_PERIOD_FACTORS, key=lambda factor: min(map(error, with_periods(some, factor))))
            codes += with_periods(codes, factor) if factor != 1 else []
        return replace(begun, motion=min([begun.motion, *codes], key=error))

    def _adapted(self, latent: SceneLatent, *arguments) -> MotionCode:
        """The code after gradient steps, as far from its start as it is, which alone gets gradients."""
        before, after = latent.motion, self.fit(latent, *arguments).motion
        moved = {
            name: getattr(before, name) + (getattr(after, name) - getattr(before, name)).detach()
            for name in CODE_PARTS
        }
        return replace(before, **moved)


def _rigidity(scene: DecodedScene, time: Tensor) -> Tensor:
    """How far a moving scene is from moving as rigidly as possible at a time; relative, see the loss."""
    graph = TokenGraph.of(scene.latent.translations.detach())
    deltas = se3_compose(scene.poses_at(time), se3_inverse(scene.latent.poses))
    return as_rigid_as_possible_loss(deltas, graph.rest, graph.neighbors, graph.spacing)
