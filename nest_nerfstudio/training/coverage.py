"""How much of what the images show is drawn at all, and why, where it is nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.geometry.multiview import project, visible
from nest_nerfstudio.types import Views

_CHECK_AT = 0.9
"""Fraction of the training by which the object should be drawn."""
_TOO_MUCH = 0.1
"""Missing share that is worth a warning."""
_FAILED = 0.9
"""Missing share of a training of which nothing came."""
_BLANK = 0.95
"""Missing share of an image on which nothing is drawn, where it shows an object on a background."""
_BLANK_IMAGE = 0.999
"""The same where images have no alpha: their background may be left bare."""
_LOST_STEPS = 50
"""Images in a row on which nothing is drawn, after which the object counts as lost."""
_MAX_VIEWS = 48
"""Training views that are looked through for Gaussians, at most."""
_CHECK = "see what `nest-data check` says, and the cameras in the viewer"
_IN_SIGHT = 0.05
"""Share of the Gaussians that a view sees at least, if they are where cameras look."""


class Coverage(nn.Module):
    """What is drawn of what the images show, over the last hundred images or so.

    Attributes:
        has_silhouettes: the images have alpha, so that what is bare in them is known.
        missing: running share of the silhouettes (of the images, if they have no alpha) left bare.
        blank_steps: number of images in a row on which nothing was drawn.
        times_lost: how often the object was lost and started again.
    """

    has_silhouettes: Tensor
    missing: Tensor
    blank_steps: Tensor
    times_lost: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("missing", torch.zeros(()))
        self.register_buffer("blank_steps", torch.zeros((), dtype=torch.long))
        self.register_buffer("times_lost", torch.zeros((), dtype=torch.long))
        self.register_buffer("has_silhouettes", torch.tensor(False))
        self._cameras: Sequence[Views] = []
        self._start: tuple[Tensor, bool] = torch.zeros(0, 3), False

    def start(self, positions: Float[Tensor, "n 3"], cameras: Sequence[Views], hull_is_empty: bool) -> None:
        """Remember the start, to tell later why nothing is drawn.

        Args:
            positions: of the Gaussians.
            cameras: all training views with their times; images are not needed.
            hull_is_empty: no point lies within the silhouettes of the first images.
        """
        self._cameras, self._start = cameras, (positions, hull_is_empty)

    @torch.no_grad()
    def update(
        self,
        drawn: Float[Tensor, "v h w 1"],
        alphas: Float[Tensor, "v h w 1"] | None,
        masks: Float[Tensor, "v h w 1"] | None = None,
    ) -> Float[Tensor, ""]:
        """Take images into account; returns the share that is missing so far.

        Args:
            drawn: accumulated opacity of the renderings.
            alphas: coverage in the images; None: they are covered whole.
            masks: 1 for the pixels to use, 0 for the others; None uses all.
        """
        shown = torch.ones_like(drawn) if alphas is None else alphas
        shown = (shown if masks is None else shown * masks) > 0.5
        count = shown.sum()
        share = (shown & (drawn < 0.5)).sum() / count.clamp_min(1)
        is_blank = (share > (_BLANK_IMAGE if alphas is None else _BLANK)) & (count > 0)
        steps = torch.where(is_blank, self.blank_steps + 1, 0)
        self.blank_steps.copy_(torch.where(count > 0, steps, self.blank_steps))  # nothing to see says nothing
        self.has_silhouettes.fill_(alphas is not None)
        return self.missing.lerp_(share, 1 / 100)

    @property
    def is_lost(self) -> bool:
        """Whether nothing was drawn for so long that the training cannot find the object again by itself."""
        return int(self.blank_steps) >= _LOST_STEPS

    @property
    def has_failed(self) -> bool:
        """Whether nothing is drawn, or as good as nothing, for the end of a training."""
        return self.is_lost or bool(self.has_silhouettes and self.missing > _FAILED)

    def start_again(self) -> None:
        """Count from here on, after the object was lost."""
        self.blank_steps.zero_()
        self.times_lost += 1

    def warning(self, before: float, progress: float) -> str | None:
        """A warning, once, when the training passes nine tenths and much is missing, but not all.

        Args:
            before: fraction of the training at the last call.
            progress: fraction of the training now.
        """
        if not before < _CHECK_AT <= progress or not self.has_silhouettes or self.has_failed:
            return None
        if self.missing <= _TOO_MUCH:
            return None
        return (
            f"[yellow]Nothing is drawn on {self.missing:.0%} of what the images show: it moves too fast to "
            "follow, or its poses or times are wrong. Of --pipeline.model.curriculum, widen-steps 1500 and "
            "widen-until 0.45 give motion more time, first-window 0.04 a start with less of it."
        )

    def starting_positions(self, count: int) -> Float[Tensor, "n 3"]:
        """Positions of the start at random, with repetitions."""
        positions = self._start[0]
        return positions[torch.randint(len(positions), (count,)).to(positions.device)]

    def why_lost(self, means_at: Callable[[Tensor], Float[Tensor, "n 3"]]) -> str:
        """Why nothing is drawn, and what to do, in a sentence.

        Args:
            means_at: centres of the Gaussians at a clip time.
        """
        positions, hull_is_empty = self._start
        if self._in_sight(lambda time: positions) < _IN_SIGHT:
            return (
                "the cameras do not see the scene box, so their poses are wrong (camera to world; the camera "
                "looks along −z, and +y is up in the image), or the box is (`nest-dynamic-data "
                f"--scene-scale`); {_CHECK}"
            )
        if self._in_sight(means_at) < _IN_SIGHT:
            return (
                f"all Gaussians have left the images; {_CHECK}. If poses and times are right, have motion "
                "learn more slowly (--optimizers.motion.optimizer.lr, --optimizers.path.optimizer.lr)"
            )
        if hull_is_empty:
            return (
                "no point in space lies within the silhouettes of the images, so their poses, times or alpha "
                f"are wrong; {_CHECK}"
            )
        return (
            "the images agree on nothing, so that all Gaussians became transparent: poses, times or alpha "
            f"are wrong; {_CHECK}"
        )

    @torch.no_grad()
    def _in_sight(self, means_at: Callable[[Tensor], Float[Tensor, "n 3"]]) -> float:
        """Share of the Gaussians whose centres fall into an image, over some of the training views."""
        count = len(self._cameras)
        views = [self._cameras[i] for i in range(0, count, count // _MAX_VIEWS + 1)]
        seen = [
            visible(*project(view, means_at(view.times[0]))).float().mean().item()
            for view in views
            if view.times is not None
        ]
        return sum(seen) / max(1, len(seen))
