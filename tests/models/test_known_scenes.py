"""Scenes that are kept while what encodes them does not learn."""

import torch

from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.known_scenes import _ANEW, KnownScenes


class Decoded(DecodedScene):
    """Stands for one."""

    def __init__(self) -> None:
        pass


def test_a_scene_is_decoded_once_for_its_clip_and_seldom_anew() -> None:
    torch.manual_seed(0)
    known, made = KnownScenes(), []

    def decode() -> DecodedScene:
        made.append(Decoded())
        return made[-1]

    found = [known(clip, decode) for _ in range(400) for clip in (0, 1, ~0)]
    assert all(len({id(found[3 * i + k]) for i in range(3)}) == 1 for k in range(3))
    assert 0.5 * _ANEW < len(made) / len(found) < 2 * _ANEW
    assert found[0] is not found[1]
    assert found[0] is not found[2]  # its mirror image


def test_a_scene_of_an_unknown_clip_is_not_kept() -> None:
    known = KnownScenes()
    assert known(None, Decoded) is not known(None, Decoded)
