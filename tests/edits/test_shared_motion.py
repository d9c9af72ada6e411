"""Motion taken from, and drawn for, scenes of a prior that has learned motion."""

import json

import pytest
import torch

from nest_nerfstudio.dynamics.motion_map import SharedMap
from nest_nerfstudio.edits.mixing import GenerateMotion, Interpolate, OtherScene, Swap
from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.timing import Oscillate
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianField, LatentGaussianFieldConfig
from nest_nerfstudio.types import SceneLatent
from tests.equivariance import random_pose, relative
from tests.small_motions import GEOMETRY, body, motion_map, with_code

FIELD = LatentGaussianField(LatentGaussianFieldConfig(), geometry_dim=GEOMETRY)


class Library:
    """Two scenes of one prior: other bodies, other codes."""

    def __init__(self) -> None:
        self.map, self.flow = motion_map()
        self.shared_motion = SharedMap(self.map, self.flow)
        self.ours, self.theirs = (
            self.map(with_code(body(16 + 4 * i, seed=i), self.map, i), self.flow) for i in range(2)
        )

    def __call__(self, scene: str | None, run: str | None) -> OtherScene:
        still = body(20, seed=1)
        swinging = Oscillate(0.3, translation=(0.0, 0.0, 0.1)).apply(still, FIELD)
        latent = {"still": still, "swinging": swinging}.get(scene or "", self.theirs)
        return OtherScene(latent, True, True, True, self.shared_motion)

    def edited(self, *steps) -> SceneLatent:
        return SceneEdit(steps).apply(self.ours, FIELD, self)


def test_a_swapped_motion_is_that_of_the_code_on_the_own_body() -> None:
    library = Library()
    swapped = library.edited(Swap("motion", scene="other"))
    motion = library.theirs.motion
    expected = library.map(with_code(body(16), library.map, 1), library.flow)
    assert relative(swapped.motion.modes, expected.motion.modes) < 1e-12
    assert swapped.motion.period == motion.period
    assert torch.equal(swapped.translations, library.ours.translations)
    g = random_pose(torch.float64, 5)
    there = SceneEdit((Swap("motion", scene="other"),)).apply(library.ours.move(g), FIELD, library)
    assert relative(there.motion.modes, swapped.motion.modes) < 1e-10


def test_motion_without_a_code_is_taken_from_tokens_that_match_in_place() -> None:
    library = Library()
    taken = library.edited(Swap("motion", scene="swinging")).motion
    assert taken.period == 0.3
    assert taken.modes.abs().sum() > 0
    swinging = Swap("motion", scene="swinging")
    with pytest.raises(EditError, match="`swap` replaces its motion"):
        library.edited(swinging, Interpolate("motion", 0.5, scene="other"))
    swapped = library.edited(swinging, Swap("motion", scene="other")).motion
    assert torch.equal(swapped.scene_code, library.theirs.motion.scene_code)


def test_motion_is_interpolated_by_its_code() -> None:
    library = Library()
    found = library.edited(Interpolate("motion", 0.25, scene="other")).motion
    ours, theirs = library.ours.motion, library.theirs.motion
    assert torch.allclose(found.scene_code, 0.75 * ours.scene_code + 0.25 * theirs.scene_code)
    assert torch.allclose(found.phase, 0.75 * ours.phase + 0.25 * theirs.phase)
    whole = library.edited(Interpolate("motion", 1.0, scene="other")).motion
    assert relative(whole.modes, library.edited(Swap("motion", scene="other")).motion.modes) < 1e-12
    with pytest.raises(EditError, match="stands still"):
        library.edited(Swap("motion", scene="still"))


def test_new_motions_are_drawn_and_saved() -> None:
    library = Library()
    with pytest.raises(EditError, match="no motion has been learned"):
        library.edited(GenerateMotion())
    for motion in [library.ours.motion, library.theirs.motion] * 50:
        library.map.observe(motion)
    one, again, other = (library.edited(GenerateMotion(seed=seed)).motion.modes for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert relative(other, one) > 1e-2
    edit = SceneEdit((GenerateMotion(seed=3, spread=0.5),))
    assert SceneEdit.from_json(json.loads(json.dumps(edit.to_json()))) == edit
    with pytest.raises(EditError, match="is of none"):
        edit.apply(library.ours, FIELD)
    with pytest.raises(ValueError, match="0 or more"):
        GenerateMotion(spread=-1.0)
