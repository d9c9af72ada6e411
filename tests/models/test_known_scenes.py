"""Scenes that are kept while what encodes them does not learn."""

from dataclasses import replace

import torch

from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.known_scenes import _ANEW, KnownScenes
from nest_nerfstudio.states import Edit, SceneSample
from tests.equivariance import pictures


class Decoded(DecodedScene):
    """Stands for one."""

    def __init__(self) -> None:
        pass


def decode(_: SceneSample) -> DecodedScene:
    return Decoded()


def sample(clip: int | None, time: float | None = None, edit: Edit | None = None) -> SceneSample:
    views = pictures(2, torch.float64)
    context = views if time is None else replace(views, times=torch.full((2,), time))
    return SceneSample("horse", "quadruped", context, edit or Edit(), (), clip=clip)


def test_a_scene_is_decoded_once_for_its_clip_and_seldom_anew() -> None:
    torch.manual_seed(0)
    known, samples = KnownScenes(), [sample(clip) for clip in (0, 1, ~0)]
    found = [known(each, decode) for _ in range(2000) for each in samples]
    assert all(len({id(found[3 * i + k]) for i in range(3)}) == 1 for k in range(3))
    made = len({id(scene) for scene in found})
    assert 0.5 * _ANEW < made / len(found) < 2 * _ANEW
    assert found[0] is not found[1]
    assert found[0] is not found[2]  # its mirror image


def test_each_state_of_a_clip_is_a_scene_of_its_own() -> None:
    torch.manual_seed(0)
    known = KnownScenes()
    states = [sample(0), sample(0, 0.25), sample(0, 0.5), sample(0, 0.25, Edit(hue=0.1))]
    found = [known(state, decode) for state in states]
    assert len({id(scene) for scene in found}) == len(states)
    assert [known(state, decode) for state in states] == found


def test_a_scene_of_an_unknown_clip_is_not_kept() -> None:
    known = KnownScenes()
    assert known(sample(None), decode) is not known(sample(None), decode)
