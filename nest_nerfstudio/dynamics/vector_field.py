"""F: where the state of a scene goes next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.dynamics.trajectory import Trajectory

_ROOM = 1.5
"""Radius of the ball in which F is what it learned, over the reach of the path."""
_PULL = 20.0
"""Rate at which what is outside the ball returns to it, per clip."""
_REST = 0.2
"""Speed of the path, over its root mean square, that counts as half at rest."""


@dataclass(frozen=True)
class VectorField:
    """An autonomous field that leads along a path, and attracts to it what is beside it.

        F(z) = A z + b + Σ_i w_i(z) (v_i − κ P_i (z − z_i)),   w = softmax(−‖z − z_i‖² / 2σ²)

    A linear field and a normalised radial-basis network (Moody and Darken 1989) over nodes z_i on the path.
    P_i takes the part across the path where it moves, and all of it where it rests: what is ahead or late
    stays so, as on a limit cycle. Weights are convex, and outside a ball around the path F is what it is
    where the ball is nearest and a pull back to it; so no flow leaves for infinity.

    Attributes (in units of the path's size and speed, but for the last ones):
        nodes: z_i.
        velocities: v_i, what A z + b leaves of the path's.
        tangents: of the path at the nodes: unit vectors where it is fast, and 0 where it rests.
        linear: (A, b), as `linear_fit` returns it.
        width: σ.
        attraction: κ, per clip.
        centre: of the path, in units of the state.
        scale: size of the path (root mean square), in units of the state.
        speed: of the path (root mean square), in units of the state per clip.
        direction: −1 to lead backwards, and to attract all the same.
    """

    nodes: Float[Tensor, "n d"]
    velocities: Float[Tensor, "n d"]
    tangents: Float[Tensor, "n d"]
    linear: Float[Tensor, "e d"]
    width: float
    attraction: float
    centre: Float[Tensor, " d"]
    scale: Float[Tensor, ""]
    speed: Float[Tensor, ""]
    direction: int = 1

    @staticmethod
    def along(
        path: Trajectory, width: float, attraction: float, num_nodes: int, ridge: float = 1e-2
    ) -> VectorField:
        """The field that leads along a path: linear as far as possible (least squares), the rest by nodes.

        One unit for all components: each in its own would make as much of noise as of the motion.

        Args:
            path: is a solution, nearly; gradients reach it by nodes and velocities.
            width: σ, over the size of the path. Passes nearer than that become one.
            attraction: κ, per clip.
            num_nodes: on the path, at even times.
            ridge: of the linear part, relative.
        """
        times = torch.linspace(path.t0, path.t1, num_nodes).to(path.values)
        states, slopes = path(times), path.slope(times)
        centre = states.detach().mean(0)
        scale, speed = _size(states.detach() - centre), _size(slopes.detach())
        nodes, velocities = (states - centre) / scale, slopes / speed
        linear = linear_fit(nodes.detach(), velocities.detach(), ridge)
        tangents = velocities / (velocities.square().sum(1, keepdim=True) + _REST**2).sqrt()
        left = velocities - with_one(nodes) @ linear
        left = 2 * left - _weights(nodes, nodes, width) @ left  # twicing (Tukey 1977): bias O(σ⁴), not O(σ²)
        # A copy, so that the others do not depend on it: the adjoint takes partial derivatives.
        return VectorField(nodes.clone(), left, tangents, linear, width, attraction, centre, scale, speed)

    def reversed(self) -> VectorField:
        """The field that leads back along the same path; F itself, solved backwards in time, would repel."""
        return replace(self, direction=-self.direction)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What has a gradient."""
        return self.nodes, self.velocities, self.tangents

    def __call__(self, time: Tensor | None, z: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """ż, in units of the state per clip; the same at all times."""
        whitened = (z - self.centre) / self.scale
        radius = _ROOM * self.nodes.detach().norm(dim=1).max()
        inside = whitened * (radius / whitened.norm(dim=-1, keepdim=True).clamp_min(1e-6)).clamp_max(1)
        weights = _weights(inside, self.nodes, self.width)
        along = with_one(inside) @ self.linear + weights @ self.velocities
        ahead = inside @ self.tangents.T - (self.nodes * self.tangents).sum(1)
        astray = inside - weights @ self.nodes - (weights * ahead) @ self.tangents
        back = -self.attraction * astray - _PULL * (whitened - inside)
        return self.direction * self.speed * along + self.scale * back


def _weights(
    states: Float[Tensor, "*b d"], nodes: Float[Tensor, "n d"], width: float
) -> Float[Tensor, "*b n"]:
    """w_i(z); of the squared distances, ‖z‖² is the same for all nodes."""
    return torch.softmax((states @ nodes.T - 0.5 * nodes.square().sum(1)) / width**2, dim=-1)


def _size(vectors: Float[Tensor, "s d"]) -> Float[Tensor, ""]:
    """Root-mean-square length."""
    return vectors.square().sum(1).mean().sqrt().clamp_min(1e-6)


def with_one(states: Float[Tensor, "*s d"]) -> Float[Tensor, "*s e"]:
    """(z, 1) for each state."""
    return torch.cat([states, torch.ones_like(states[..., :1])], -1)


def linear_fit(
    states: Float[Tensor, "s d"], values: Float[Tensor, "s c"], ridge: float = 0.0
) -> Float[Tensor, "e c"]:
    """Least-squares map from (z, 1) to values; the ridge is relative and leaves the constant free."""
    dim = states.shape[1]
    penalty = (ridge * len(states)) ** 0.5 * torch.eye(dim, dim + 1).to(states)
    return torch.linalg.pinv(torch.cat([with_one(states), penalty]))[:, : len(states)] @ values
