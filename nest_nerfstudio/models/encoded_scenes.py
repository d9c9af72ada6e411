"""What a model of many scenes is given of them, and the one that it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.types import SceneLatent, Views


class Contexts(Protocol):
    """Context views of scenes: data that the model is given.

    Attributes:
        names: of the scenes, by number.
    """

    @property
    def names(self) -> Sequence[str]: ...

    def __getitem__(self, key: tuple[int, int]) -> Views:
        """Views of a scene, by its number and the number of views; fewer where it has fewer."""
        ...

    def timed(self, number: int) -> Views | None:
        """Frames from which the motion of a scene is read; None where it stands still."""
        ...


@dataclass
class ShownScene:
    """The scene that was shown last.

    Attributes:
        key: number, context views and refinement.
        latent: Z, without edits.
        has_alpha: whether its images have alpha.
        scene: decoded under the model's edit; None: not yet.
        is_stale: the weights have changed since.
    """

    key: tuple[int, int, bool]
    latent: SceneLatent
    has_alpha: bool
    scene: DecodedScene | None = None
    is_stale: bool = False
