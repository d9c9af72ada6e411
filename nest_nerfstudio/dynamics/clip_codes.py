"""Motion codes of training clips, which are learned with the weights: an auto-decoder."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.types import MotionCode


class ClipCodes(nn.Module):
    """A scene code, a period and a phase of each clip, as changes from those that all clips start with.

    Gradients of images reach such a code directly, and not through an encoder that is still to learn what to
    look at. Source: J. J. Park et al., DeepSDF, 2019.

    Args:
        num_clips: clips n have the rows n, and their mirror images, `~n`, others.
        code_dim: size of a scene code.

    Attributes:
        rows: scene code, log period and phase, the latter two in units of `_STEP`; zero: not learned.
    """

    def __init__(self, num_clips: int, code_dim: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2 * num_clips, code_dim + 2))

    @property
    def learned(self) -> list[int]:
        """The clips whose codes were learned, mirror images after the others."""
        found = self.rows.any(1).nonzero().flatten().tolist()
        return [row if 2 * row < len(self.rows) else row - len(self.rows) for row in found]

    def forward(self, start: MotionCode, clip: int) -> MotionCode:
        """The code of a clip, by that with which all start."""
        row = self.rows[clip]
        log_period, phase = _STEP * row[-2:]
        return replace(
            start,
            scene_code=start.scene_code + row[:-2],
            period=start.period * log_period.exp(),
            phase=start.phase + phase,
        )

    def prior(self, clip: int) -> Float[Tensor, ""]:
        """Squared length of the code of a clip, over its size: codes stay near their start."""
        return self.rows[clip].square().mean()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take as many rows as were stored: who loads a model need not know its training clips."""
        stored = state_dict.setdefault(prefix + "rows", self.rows.detach())
        if len(self.rows) == 0:
            self.rows = nn.Parameter(stored.to(self.rows), self.rows.requires_grad)
        super()._load_from_state_dict(state_dict, prefix, *args)


def code_distance(code: MotionCode, to: MotionCode) -> Float[Tensor, ""]:
    """Mean square of the differences of two motion codes, in the units of `ClipCodes.rows`."""
    times = [code.period.log() - to.period.log(), code.phase - to.phase]
    return torch.cat([code.scene_code - to.scene_code, torch.stack(times) / _STEP]).square().mean()


_STEP = 0.3
"""Change of log period and phase for 1 in a row: slower than a code's, as all of the clip depends on them."""
