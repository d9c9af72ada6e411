"""Which tokens of a scene an edit acts on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from nest_nerfstudio.geometry.points import nearest
from nest_nerfstudio.types import SceneLatent

Vector = tuple[float, float, float]


class Selection(ABC):
    """Chooses tokens by their positions at rest, world frame, or by their ids."""

    @abstractmethod
    def mask(self, latent: SceneLatent) -> Bool[Tensor, " k"]:
        """True for the chosen tokens of a scene."""


@dataclass(frozen=True)
class All(Selection):
    """Every token."""

    def mask(self, latent: SceneLatent) -> Bool[Tensor, " k"]:
        return torch.ones(len(latent), dtype=torch.bool, device=latent.quats.device)


ALL = All()


@dataclass(frozen=True)
class Box(Selection):
    """Tokens in an axis-aligned box.

    Attributes:
        low: smallest corner, world units.
        high: largest corner.
    """

    low: Vector
    high: Vector

    def mask(self, latent: SceneLatent) -> Bool[Tensor, " k"]:
        low, high = (latent.translations.new_tensor(corner) for corner in (self.low, self.high))
        return ((latent.translations >= low) & (latent.translations <= high)).all(1)


@dataclass(frozen=True)
class Sphere(Selection):
    """Tokens in a ball.

    Attributes:
        centre: of the ball, world units.
        radius: of the ball, world units.
    """

    centre: Vector
    radius: float

    def mask(self, latent: SceneLatent) -> Bool[Tensor, " k"]:
        return (latent.translations - latent.translations.new_tensor(self.centre)).norm(dim=1) <= self.radius


@dataclass(frozen=True)
class Nearest(Selection):
    """The tokens nearest to a point.

    Attributes:
        point: world units.
        count: how many.
    """

    point: Vector
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be 1 or more, not {self.count}")

    def mask(self, latent: SceneLatent) -> Bool[Tensor, " k"]:
        point = latent.translations.new_tensor(self.point)[None]
        chosen = torch.zeros(len(latent), dtype=torch.bool, device=point.device)
        chosen[nearest(point, latent.translations, self.count)[1][0]] = True
        return chosen


@dataclass(frozen=True)
class Ids(Selection):
    """Tokens by their ids, which no action changes; copies have the ids of their originals.

    Attributes:
        ids: some of `SceneLatent.ids`.
        copies: of which copies; empty for all.
    """

    ids: tuple[int, ...]
    copies: tuple[int, ...] = ()

    def mask(self, latent: SceneLatent) -> Bool[Tensor, " k"]:
        chosen = torch.isin(latent.ids, latent.ids.new_tensor(self.ids))
        if self.copies:
            chosen &= torch.isin(latent.copies, latent.copies.new_tensor(self.copies))
        return chosen


@dataclass(frozen=True)
class Copies(Selection):
    """Tokens of copies that `Duplicate` made.

    Attributes:
        copies: numbers of the copies, in the order in which they were made; 0 are the originals.
    """

    copies: tuple[int, ...]

    def mask(self, latent: SceneLatent) -> Bool[Tensor, " k"]:
        return torch.isin(latent.copies, latent.copies.new_tensor(self.copies))


@dataclass(frozen=True)
class Cluster(Selection):
    """The connected cluster of the token nearest to a point: tokens are linked up to a distance.

    Attributes:
        point: world units.
        reach: longest link, world units.
    """

    point: Vector
    reach: float

    def mask(self, latent: SceneLatent) -> Bool[Tensor, " k"]:
        positions = latent.translations
        chosen = Nearest(self.point).mask(latent)
        front = chosen
        while front.any():  # tokens reached in the last round
            near = nearest(positions, positions[front], 1)[0][:, 0] <= self.reach
            front = near & ~chosen
            chosen = chosen | near
        return chosen


SELECTIONS: dict[str, type[Selection]] = {
    "all": All,
    "box": Box,
    "sphere": Sphere,
    "nearest": Nearest,
    "ids": Ids,
    "copies": Copies,
    "cluster": Cluster,
}
"""Names of the selections in files."""
