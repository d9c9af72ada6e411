"""How tokens of any scene answer to its motion code: one map for all scenes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.configs.base_config import InstantiateConfig
from torch import Tensor, nn

from nest_nerfstudio.dynamics.flow import LatentFlow
from nest_nerfstudio.dynamics.orbit import orbit_start, turn_pairs
from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.moments import gaussian_of, no_moments, take_in
from nest_nerfstudio.types import MotionCode, SceneLatent

NUM_AXES = 6
"""Vectors of `MotionMap.axes`."""
CODE_PARTS = ("scene_code", "period", "phase")
"""Parts of a motion code by which one scene moves unlike another."""


@dataclass
class MotionMapConfig(InstantiateConfig):
    """Settings of `MotionMap`."""

    _target: type = field(default_factory=lambda: MotionMap)
    kind: Literal["cyclic", "free"] = "cyclic"
    """Motion that the map gives. cyclic: it repeats, with a period of each scene; free: a neural ODE that all
    scenes share leads it, from a start and with a code of each scene."""
    hidden_dim: int = 192
    """Width of the MLP."""
    num_layers: int = 3
    """Layers of the MLP, each of which the scene code modulates."""


class MotionMap(nn.Module):
    """M_k = M(features of token k | scene code): the modes of every token, for any body.

    Features of a token are its geometry code and its coordinates along *axes* of the body: vectors that turn
    with the body, such as gravity and weighted means of the tokens' positions, with weights learned from
    their geometry codes. The MLP gives components along these axes of a twist about the body's centre, which
    is then brought into the token's own frame: exp(ξ) T = T exp(Ad(T⁻¹) ξ). So tokens of equal twists, such
    as those of a limb, move as one rigid part; and the map commutes with SE(3) and with permutations for all
    weights, and one code drives any body. Modes are such that the twists vanish at the time at which the
    tokens stand at rest.

    Args:
        config: its settings.
        geometry_dim: size of a token's geometry code.
        code_dim: size of a scene code.
        state_dim: size of the state z.
        knows_gravity: the vertical is z in all scenes; the map then commutes with rotations about it.

    Attributes:
        start_code: code from which codes are found, learned.
        start_log_period: logarithm of the period from which periods are found, learned.
    """

    moments: Tensor

    def __init__(
        self, config: MotionMapConfig, geometry_dim: int, code_dim: int, state_dim: int, knows_gravity: bool
    ) -> None:
        super().__init__()
        self.config, self.state_dim, self.knows_gravity = config, state_dim, knows_gravity
        hidden = config.hidden_dim
        self.weigh = nn.Sequential(nn.Linear(geometry_dim, hidden), nn.SiLU(), nn.Linear(hidden, 2))
        num_inputs = geometry_dim + NUM_AXES * (1 + 2 * len(_OCTAVES)) + NUM_AXES**2
        sizes = [num_inputs, *[hidden] * config.num_layers]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden, elementwise_affine=False) for _ in sizes[1:])
        self.modulations = nn.ModuleList(nn.Linear(code_dim, 2 * hidden) for _ in sizes[1:])
        self.head = nn.Linear(hidden, 2 * NUM_AXES * state_dim)
        for layer in (self.head, *self.modulations):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)
        self.start_code = nn.Parameter(torch.zeros(code_dim))
        self.start_log_period = nn.Parameter(torch.zeros(()))
        self.register_buffer("moments", no_moments(code_dim + 2))

    def begin(self, latent: SceneLatent) -> SceneLatent:
        """The scene with the motion code from which codes are found, without modes."""
        code = MotionCode(
            start=orbit_start(self.state_dim, latent.translations),
            modes=latent.translations.new_zeros(len(latent), 6, self.state_dim + 1),
            drift=latent.translations.new_zeros(len(latent), 6),
            scene_code=self.start_code,
            period=self.start_log_period.exp(),
            phase=latent.translations.new_zeros(()),
            kind=self.config.kind,
        )
        return replace(latent, motion=code)

    def forward(self, latent: SceneLatent, flow: LatentFlow, rest: float = 0.0) -> SceneLatent:
        """The scene with the start and the modes that belong to its scene code, period and phase.

        Args:
            latent: a scene that `begin` has been applied to.
            flow: leads its state.
            rest: own time at which its tokens stand at rest.
        """
        start = orbit_start(self.state_dim, latent.translations)
        motion = replace(latent.motion, start=start)
        if motion.kind == "free":
            turns = 2 * torch.pi * motion.phase * torch.arange(1, self.state_dim // 2 + 1).to(start)
            motion = replace(motion, start=turn_pairs(start, turns))
        linear = self._linear_modes(latent)
        at_rest = motion.start
        if motion.kind == "cyclic" or rest != 0:
            at_rest = flow.solve(motion, rest, rest)(start.new_tensor(rest))
        constant = -(linear @ at_rest)[..., None]
        modes, drift = torch.cat([linear, constant], -1), linear.new_zeros(len(latent), 6)
        return replace(latent, motion=replace(motion, modes=modes, drift=drift))

    def axes(self, latent: SceneLatent) -> Float[Tensor, "a 3"]:
        """Vectors that turn with the body, world frame, of length one at most."""
        offsets, _ = _offsets(latent)
        weights = self.weigh(latent.geometry)
        square = offsets.square().sum(1, keepdim=True)
        first = ((weights[:, :1] + square) * offsets).mean(0)
        second = (weights[:, 1:] * offsets).mean(0)
        if self.knows_gravity:
            third = offsets.new_tensor([0.0, 0.0, -1.0])
        else:
            third = (offsets * (weights[:, :1] * weights[:, 1:])).mean(0)
        vectors = torch.stack([_shortened(v) for v in (first, second, third)])
        crossed = torch.linalg.cross(vectors, vectors.roll(1, 0))
        return torch.cat([vectors, torch.stack([_shortened(v) for v in crossed])])

    def coordinates(
        self, latent: SceneLatent, axes: Float[Tensor, "a 3"]
    ) -> tuple[Float[Tensor, "k a"], Float[Tensor, ""]]:
        """Positions of the tokens along the axes, from their centre, and the unit of length, world units."""
        offsets, size = _offsets(latent)
        return offsets @ axes.mT, size

    def _linear_modes(self, latent: SceneLatent) -> Float[Tensor, "k 6 d"]:
        axes = self.axes(latent)
        offsets, size = _offsets(latent)
        coordinates = offsets @ axes.mT
        waves = (coordinates[..., None] * coordinates.new_tensor(_OCTAVES)).flatten(1)
        angles = (axes @ axes.mT).flatten().expand(len(latent), -1)
        x = torch.cat([latent.geometry, coordinates, waves.sin(), waves.cos(), angles], 1)
        for layer, norm, modulation in zip(self.layers, self.norms, self.modulations, strict=True):
            gain, shift = modulation(latent.motion.scene_code).chunk(2)
            x = nn.functional.silu(norm(layer(x)) * (1 + gain) + shift)
        components = self.head(x).unflatten(1, (2, NUM_AXES, self.state_dim))
        linear, angular = torch.einsum("kpad,aj->pkjd", components, axes)
        linear = linear + torch.linalg.cross(angular, offsets[..., None].expand_as(angular), dim=1)
        into = quat_to_rotmat(latent.quats).mT
        return torch.cat([size * into @ linear, into @ angular], 1)

    # ---------------------------------------------------------------- the codes of many scenes

    def observe(self, motion: MotionCode) -> None:
        """Take the code of a training scene into the running moments, from which `sample` draws."""
        code = torch.cat([motion.scene_code, torch.stack([motion.period.log(), motion.phase])])
        take_in(self.moments, code[None])

    @torch.no_grad()
    def sample(self, latent: SceneLatent, seed: int, spread: float = 1.0) -> SceneLatent:
        """A new code for a scene, without its modes: from a Gaussian fitted to the codes of training scenes.

        Args:
            latent: the scene.
            seed: which sample.
            spread: factor of the standard deviations; 0 gives the mean.

        Raises:
            ValueError: the map has not been trained.
        """
        known = gaussian_of(self.moments.cpu())
        if known is None:
            raise ValueError("no motion has been learned yet from which new ones could be drawn")
        mean, directions = known
        noise = torch.randn(len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        code = (mean + spread * directions @ noise).to(latent.quats)
        begun = self.begin(latent)
        motion = replace(begun.motion, scene_code=code[:-2], period=code[-2].exp(), phase=code[-1])
        return replace(begun, motion=motion)


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
        parts = {name: getattr(motion, name).to(latent.quats) for name in CODE_PARTS}
        return self.map(replace(latent, motion=replace(motion, **parts)), self.flow)

    @torch.no_grad()
    def generate(self, latent: SceneLatent, seed: int, spread: float) -> SceneLatent:
        """The scene with a motion drawn from those of the training scenes."""
        moved = self.map(self.map.sample(latent, seed, spread), self.flow)
        return replace(moved, motion=replace(moved.motion, time_map=latent.motion.time_map))


_OCTAVES = (torch.pi / 2, torch.pi, 2 * torch.pi)
"""Frequencies of the waves of a token's coordinates, in radians."""
_SHORT = 0.05
"""Length of a vector of which half is left when it is shortened."""


def _offsets(latent: SceneLatent) -> tuple[Float[Tensor, "k 3"], Float[Tensor, ""]]:
    """Positions of the tokens from their centre, in units of their mean distance from it, and that unit."""
    offsets = latent.translations - latent.translations.mean(0)
    size = offsets.square().sum(1).mean().clamp_min(1e-12).sqrt()
    return offsets / size, size


def _shortened(vector: Float[Tensor, " 3"]) -> Float[Tensor, " 3"]:
    """A vector of length one almost, and smoothly shorter where it is short itself."""
    return vector / (vector.square().sum() + _SHORT**2).sqrt()
