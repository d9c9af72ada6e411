"""Training scenes as an encoder and a field that do not learn any more know them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from cachetools import LRUCache

from nest_nerfstudio.models.decoded_scene import DecodedScene

_MOST = 256
"""Scenes that are kept."""
_ANEW = 0.005
"""Probability that a scene is encoded anew, from other views and of another number of tokens."""


class KnownScenes:
    """Decoded scenes of training clips, kept: encoding takes most of a step that teaches motion alone.

    They are not part of a checkpoint; a resumed training encodes them again.
    """

    def __init__(self) -> None:
        self._kept: LRUCache[int, DecodedScene] = LRUCache(_MOST)

    def __call__(self, clip: int | None, decode: Callable[[], DecodedScene]) -> DecodedScene:
        """The scene of a clip.

        Args:
            clip: number of the clip, or of its mirror image; None: it is not known which.
            decode: makes it, from views of the world in which its frames are.
        """
        if clip is None:
            return decode()
        known = self._kept.get(clip)
        if known is None or float(torch.rand(())) < _ANEW:
            known = self._kept[clip] = decode()
        return known
