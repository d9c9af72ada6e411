"""F_ψ: the vector field of the latent ODE."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.dynamics.orbit import oscillator_field
from nest_nerfstudio.dynamics.trajectory import Trajectory


class VectorField(nn.Module):
    """F_ψ(z, c): an autonomous field on the state, linear plus an MLP; zero-initialised (identity flow).

    Outside a ball around the observed states it is the field at the nearest point of the ball, plus a pull
    back towards it. So no flow diverges, whatever F learns.

    Args:
        state_dim: size of z.
        hidden_dim: width of the MLP.
        code_dim: size of the scene code c, by which the MLP is conditioned.
    """

    centre: Tensor
    scale: Tensor
    speed: Tensor
    radius: Tensor
    tube: Tensor

    PULL = 20.0
    """Rate at which states outside the ball return to it, per clip."""
    ROOM = 1.5
    """Radius of the ball over the largest distance of the path from its centre."""

    def __init__(self, state_dim: int, hidden_dim: int, code_dim: int = 0) -> None:
        super().__init__()
        self.code_dim = code_dim
        self.linear = nn.Linear(state_dim, state_dim)
        self.layers = nn.Sequential(
            nn.Linear(state_dim + code_dim, hidden_dim),
            nn.Tanh(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.Tanh(),
            nn.Linear(hidden_dim, state_dim),
        )
        for last in (self.linear, self.layers[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.register_buffer("centre", torch.zeros(state_dim))
        self.register_buffer("scale", torch.ones(state_dim))
        self.register_buffer("speed", torch.ones(state_dim))
        self.register_buffer("radius", torch.tensor(1e6))
        self.register_buffer("tube", torch.zeros(()))

    def forward(
        self, time: Tensor | None, z: Float[Tensor, "*b d"], code: Float[Tensor, " c"] | None = None
    ) -> Float[Tensor, "*b d"]:
        """dz/dt.

        Args:
            time: not used; ODE solvers give it.
            z: states.
            code: of the scene; None is the zero code.
        """
        whitened = (z - self.centre) / self.scale
        inside = whitened * (self.radius / whitened.norm(dim=-1, keepdim=True).clamp_min(1e-6)).clamp_max(1)
        inputs = inside
        if self.code_dim:
            code = z.new_zeros(self.code_dim) if code is None else code
            inputs = torch.cat([inside, code.expand(*inside.shape[:-1], -1)], -1)
        learned = (self.linear(inside) + self.layers(inputs)) * self.speed
        return learned - self.PULL * self.scale * (whitened - inside)

    def given(self, code: Float[Tensor, " c"] | None) -> nn.Module:
        """The field of one scene, a function of time and state alone."""
        if code is None or self.code_dim == 0:
            return self
        return _FieldOfScene(self, code)

    @torch.no_grad()
    def start_as_oscillator(self, start: Float[Tensor, " d"], period: float) -> None:
        """Start as the oscillator of a period, in clips; a negative one runs backwards.

        Args:
            start: a state of the orbits that it is to learn from; F is trusted as far as `ROOM` times away.
            period: of its first harmonic.
        """
        for layer in (self.linear, self.layers[-1]):
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        states = torch.eye(len(start)).to(start)
        self.linear.weight.copy_(oscillator_field(states, start.new_tensor(period)).mT)
        self.radius.copy_(self.ROOM * start.norm())

    @torch.no_grad()
    def restart(self, path: Trajectory, ridge: float = 1e-3) -> None:
        """Start anew from the linear field that fits a path best (least squares).

        States and speeds are measured in half standard deviations of the path's largest component: one unit
        for all components, as a unit for each would weigh noise as much as motion.
        """
        self.centre.copy_(path.values.mean(0))
        self.scale.fill_(0.5 * path.values.std(0).max().clamp_min(1e-6))
        self.speed.fill_(0.5 * path.slopes.std(0).max().clamp_min(1e-6))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        for parameter in self.layers[-1].parameters():
            parameter.zero_()
        states = (path.values - self.centre) / self.scale
        self.radius.copy_(self.ROOM * states.norm(dim=1).max())
        solution = linear_fit(states, path.slopes / self.speed, ridge)
        self.linear.weight.copy_(solution[:-1].T)
        self.linear.bias.copy_(solution[-1])

    def fit(
        self,
        path: Trajectory,
        tube: float,
        attraction: float,
        iterations: int,
        lr: float = 3e-3,
        beside: Callable[[float], Float[Tensor, ""]] | None = None,
    ) -> None:
        """Minimise `tube_loss` by Adam; after `restart` with the same path.

        Args:
            path: becomes a solution, approximately.
            tube: radius around the path in which F is trained, in the units of `restart`.
            attraction: κ, per clip.
            iterations: number of steps.
            lr: initial learning rate; it falls to zero.
            beside: a further loss, a function of the fraction of steps done.
        """
        self.tube.fill_(tube)
        optimizer = torch.optim.Adam(self.parameters(), lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, iterations))
        for i in range(iterations):
            optimizer.zero_grad()
            loss = self.tube_loss(path, attraction)
            (loss if beside is None else beside(i / iterations) + loss).backward()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            optimizer.step()
            schedule.step()

    def tube_loss(
        self,
        path: Trajectory,
        attraction: float,
        code: Float[Tensor, " c"] | None = None,
        count: int = 128,
    ) -> Float[Tensor, ""]:
        """Mean squared distance of F(z + ε) to ż − κε: the path is a solution that attracts nearby states.

        Collocation (Hairer, Nørsett, Wanner I, II.7) at random times and offsets ε, with contraction, as a
        closed curve needs to be an orbit; in units of the path's speed.
        """
        times = path.t0 + (path.t1 - path.t0) * torch.rand(count, device=path.values.device)
        states, slopes = path(times), path.slope(times)
        offsets = (
            torch.randn_like(states) * torch.rand(count, 1, device=times.device) * self.tube * self.scale
        )
        targets = torch.cat([slopes - attraction * offsets, slopes])
        learned = self(None, torch.cat([states + offsets, states]), code)
        return ((learned - targets) / self.speed).square().mean()


class _FieldOfScene(nn.Module):
    """F_ψ(·, c) of one scene; the adjoint solver differentiates by `given_tensors` too."""

    def __init__(self, vector_field: VectorField, code: Tensor) -> None:
        super().__init__()
        self.vector_field = vector_field
        self.given_tensors = (code,)

    def forward(self, time: Tensor | None, z: Tensor) -> Tensor:
        return self.vector_field(time, z, self.given_tensors[0])


def with_one(states: Float[Tensor, "*b d"]) -> Float[Tensor, "*b e"]:
    """(z, 1) for each state."""
    return torch.cat([states, torch.ones_like(states[..., :1])], -1)


def linear_fit(
    states: Float[Tensor, "s d"], values: Float[Tensor, "s c"], ridge: float = 0.0
) -> Float[Tensor, "e c"]:
    """Least-squares map from (z, 1) to values; the ridge is relative and leaves the constant free."""
    dim = states.shape[1]
    penalty = (ridge * len(states)) ** 0.5 * torch.eye(dim, dim + 1).to(states)
    return torch.linalg.pinv(torch.cat([with_one(states), penalty]))[:, : len(states)] @ values
