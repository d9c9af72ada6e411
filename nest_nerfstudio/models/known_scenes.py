"""Training scenes as an encoder and a field that do not learn any more know them."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from cachetools import LRUCache

from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.motion_prior import rest_time
from nest_nerfstudio.states import SceneSample

_MOST = 256
"""Scenes that are kept."""
_ANEW = 0.005
"""Probability that a scene is encoded anew, from other views and of another number of tokens."""


class KnownScenes:
    """Decoded scenes of training clips, kept: encoding takes most of a step that teaches motion alone.

    They are not part of a checkpoint; a resumed training encodes them again.
    """

    def __init__(self) -> None:
        self._kept: LRUCache[Hashable, DecodedScene] = LRUCache(_MOST)

    def __call__(self, sample: SceneSample, decode: Callable[[SceneSample], DecodedScene]) -> DecodedScene:
        """The scene of a sample: of its clip, or of that one's mirror image, in the state of its context.

        Args:
            sample: of a clip, or of one that is not known.
            decode: makes it, from views of the world in which its frames are.
        """
        if sample.clip is None:
            return decode(sample)
        state = sample.clip, rest_time(sample.context), sample.edit
        known = self._kept.get(state)
        if known is None or float(torch.rand(())) < _ANEW:
            known = self._kept[state] = decode(sample)
        return known
