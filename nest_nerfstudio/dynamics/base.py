"""The contract of Φ_t: how the tokens of a scene move."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.dynamics.orbit import Orbit
from nest_nerfstudio.dynamics.trajectory import Trajectory, smooth_trajectory
from nest_nerfstudio.geometry.se3 import Pose, se3_interpolate, se3_plus
from nest_nerfstudio.types import WORLD, MotionCode, SceneLatent


class Dynamics(nn.Module, ABC):
    """Poses tokens over time: T_k(t) = T_k · exp(t η_k) · exp ξ_k(z(t)).

    Both the twists ξ and the drift η of what travels are in the tokens' own frames.

    z is invariant under SE(3), so every such motion commutes with every rigid motion of the world. The world
    token, of what stands still, is not moved.
    """

    @abstractmethod
    def solve(self, motion: MotionCode, t0: float = 0.0, t1: float = 1.0) -> Trajectory | Orbit:
        """The path z(t) of a scene's state.

        Args:
            motion: motion code of the scene; its time map is left to `poses`.
            t0: first own time that is asked for, in clips; the path begins there or before.
            t1: last one.
        """

    @abstractmethod
    def twists(self, latent: SceneLatent, z: Float[Tensor, " d"]) -> Float[Tensor, "k 6"]:
        """ξ_k(z): translation (world units), then rotation vector (radians), in each token's own frame."""

    @torch.no_grad()
    def linear(
        self, latent: SceneLatent, path: Trajectory | Orbit
    ) -> tuple[Float[Tensor, "k 6 m"], Trajectory | Orbit]:
        """The same motion as modes that are linear in a state, ξ_k = M_k (z, 1), and the path of that state.

        For programs that cannot evaluate the map from state to twists. Where it is not linear itself: the
        principal components of all twists over a path from 0 to 1, to a ten-thousandth of the largest.
        """
        assert isinstance(path, Trajectory)
        times = torch.linspace(0, 1, 4 * len(path.values) - 3).to(path.values)
        seen = torch.stack([self.twists(latent, z).flatten() for z in path(times)])
        mean = seen.mean(0)
        scores, sizes, components = torch.linalg.svd(seen - mean, full_matrices=False)
        kept = max(1, int((sizes > 1e-4 * sizes[0]).sum()))
        modes = torch.cat([components[:kept], mean[None]]).mT.unflatten(0, (len(latent), 6))
        return modes, smooth_trajectory(scores[:, :kept] * sizes[:kept])

    def is_still(self, motion: MotionCode) -> bool:
        """Whether nothing moves, so that no path is needed."""
        return motion.kind == "still"

    def poses(self, latent: SceneLatent, path: Trajectory | Orbit, time: Float[Tensor, ""]) -> Pose:
        """Poses of all tokens at a clip time: (quats [K, 4] wxyz, translations [K, 3]), world frame.

        Args:
            latent: the scene; its poses are those at rest.
            path: from `solve`, long enough for the own time that the latent's time map shows at `time`.
            time: clip time; the observed clip spans [0, 1].
        """
        if self.is_still(latent.motion):
            return latent.poses
        time_map = latent.motion.time_map
        own = time_map(time)
        poses = self._posed(latent, path, own)
        if time_map.loop is None or time_map.fade == 0:
            return poses
        start, end = time_map.loop
        weight = ((own - end) / time_map.fade + 1).clamp(0, 1)
        if weight == 0:
            return poses
        before = self._posed(latent, path, own - (end - start))
        return se3_interpolate(poses, before, weight * weight * (3 - 2 * weight))

    def _posed(self, latent: SceneLatent, path: Trajectory | Orbit, own: Float[Tensor, ""]) -> Pose:
        twists, drift = self.twists(latent, path(own)), own * latent.motion.drift
        is_world = latent.ids == WORLD
        if is_world.any():
            twists, drift = (x.masked_fill(is_world[:, None], 0.0) for x in (twists, drift))
        return se3_plus(se3_plus(latent.poses, drift), twists)
