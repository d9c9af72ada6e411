"""Every step undone by its inverse, on scenes of both fields; and what has no inverse says so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.selection import Box, Cluster, Copies, Ids, Nearest, Sphere
from nest_nerfstudio.edits.steps import (
    STEPS,
    Amplify,
    Delete,
    Duplicate,
    Freeze,
    GenerateMotion,
    Interpolate,
    Keep,
    Loop,
    Move,
    Oscillate,
    Recolor,
    Relight,
    Retime,
    Reverse,
    Scale,
    ShiftPhase,
    Step,
    Swap,
    Travel,
    Traverse,
    Turn,
)
from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, BoundGaussians
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig
from nest_nerfstudio.geometry.albedo_cube import NUM_CORNERS
from nest_nerfstudio.states import SunSky
from nest_nerfstudio.types import SceneLatent
from tests.edits.test_steps import TOKENS, make_latent
from tests.equivariance import latent_distance

FACTORS = ("poses", "geometry", "appearance", "light", "motion", "sizes", "tokens")
MATRIX = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
SUN = SunSky((0.0, 0.0, -1.0), 2.0, 0.1)
SOME = Sphere((-1.0, 0.0, 0.0), 1.5)
INVERTIBLE: list[tuple[Step, set[str]]] = [
    (Move((0.0, 0.4, 1.0), (0.3, 0.0, 1.0), tokens=SOME), {"poses"}),
    (Move((0.0, 0.0, 1.0), tokens=Nearest((8.0, 0.0, 0.0))), {"poses"}),
    (Turn(135.0, (1.0, 1.0, 0.0), tokens=Box((-9.0, -9.0, -9.0), (0.5, 9.0, 9.0))), {"poses"}),
    (Turn(matrix=MATRIX, about=(3.0, 0.0, 0.0), tokens=Cluster((0.0, 0.0, 0.0), 1.2)), {"poses"}),
    (Turn(180.0), {"poses"}),
    (Travel((0.0, 0.4, 1.0), (0.0, 0.2, 1.0), tokens=SOME), {"motion"}),
    (Travel(rotation=(0.5, 0.0, 0.0), about=(1.0, 0.0, 2.0)), {"motion"}),
    (Scale(0.3, tokens=SOME), {"poses", "sizes", "motion"}),
    (Duplicate((0.0, 0.0, 1.0), (0.0, 0.3, 0.0), tokens=SOME), {*FACTORS} - {"light", "sizes"}),
    (Recolor(0.2, (0.5, 1.2, 2.0), tokens=SOME), {"appearance"}),
    (Traverse("geometry", (1.0, -2.0), tokens=SOME), {"geometry"}),
    (Traverse("appearance", (0.5, 0.0, 1.0)), {"appearance"}),
    (Relight((0.1, 0.2, 0.3), 0.5), {"light"}),
    (Relight(light=SUN), {"light"}),
    (Relight(gain=0.0), {"light"}),
    (Retime(-2.0, 0.3), {"motion"}),
    (Reverse(), {"motion"}),
    (ShiftPhase(0.3), {"motion"}),
    (Amplify(0.1), {"motion"}),
]
FINAL: list[Step] = [
    Keep(SOME),
    Delete(SOME),
    Retime(0.0),
    Freeze(0.3),
    Loop(0.0, 0.5),
    Amplify(0.0),
]
BOUND, LATENT = "bound", "latent"


def scene(kind: str) -> tuple[SceneLatent, Field]:
    latent = make_latent()
    if kind == BOUND:
        field = BoundGaussians(60, TOKENS, sh_degree=1)
        field.initialize(torch.randn(60, 3) * 2, torch.rand(60, 3), 0.5)
        field.bind(latent.poses)
        return replace(
            latent, geometry=torch.zeros(TOKENS, 0), appearance=torch.zeros(TOKENS, COLOR_DIM)
        ), field
    field = LatentGaussianFieldConfig().setup(geometry_dim=5)
    latent = replace(latent, appearance=0.1 + 0.8 * torch.rand(TOKENS, 3 * NUM_CORNERS))
    for _ in range(3):
        field.observe(replace(latent, geometry=torch.randn(TOKENS, 5)))
    return latent, field


def factor(latent: SceneLatent, name: str) -> list:
    motion = latent.motion
    return {
        "poses": [latent.quats, latent.translations],
        "tokens": [latent.ids, latent.copies],
        "motion": list(vars(motion).values()),
    }.get(name) or [getattr(latent, name, None)]


def same(a: list, b: list) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) else x == y
        for x, y in zip(a, b, strict=True)
    )


def assert_undone(back: SceneLatent, latent: SceneLatent) -> None:
    assert latent_distance(back, latent) < 1e-6
    assert torch.equal(back.ids, latent.ids)
    assert torch.equal(back.copies, latent.copies)
    for name in ("start", "modes", "drift", "period", "phase"):
        found, expected = getattr(back.motion, name), getattr(latent.motion, name)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    maps = back.motion.time_map, latent.motion.time_map
    assert maps[0].speed == pytest.approx(maps[1].speed, abs=1e-6)
    assert maps[0].offset == pytest.approx(maps[1].offset, abs=1e-6)
    if back.sizes is not None:
        torch.testing.assert_close(back.sizes, torch.ones(len(back)), atol=1e-6, rtol=0)


def cases() -> list:
    names = [f"{step.name}-{i}" for i, (step, _) in enumerate(INVERTIBLE)]
    return [
        pytest.param(step, changed, id=name) for (step, changed), name in zip(INVERTIBLE, names, strict=True)
    ]


@pytest.mark.parametrize("kind", [BOUND, LATENT])
@pytest.mark.parametrize(("step", "changed"), cases())
def test_a_step_changes_its_own_factors_alone_and_its_inverse_undoes_it(
    step: Step, changed: set[str], kind: str
) -> None:
    latent, field = scene(kind)
    if step.name == "relight" and not field.knows_light:
        for act in (step.apply, step.inverse):
            with pytest.raises(EditError, match="relight: the colours of this scene are baked"):
                act(latent, field)
        return
    if step.name == "traverse" and kind == BOUND:
        with pytest.raises(EditError, match="traverse: no principal directions of"):
            step.apply(latent, field)
        return
    edit = SceneEdit((step,))
    edited = edit.apply(latent, field)
    for name in FACTORS:
        empty = kind == BOUND and name == "geometry"
        if not empty:
            assert same(factor(edited, name), factor(latent, name)) == (name not in changed), name
    inverse = edit.inverse(latent, field)
    assert_undone(inverse.apply(edited, field), latent)
    stored = SceneEdit.from_json(inverse.to_json())
    assert_undone(stored.apply(edited, field), latent)


@pytest.mark.parametrize("kind", [BOUND, LATENT])
def test_many_steps_are_undone_last_to_first(kind: str) -> None:
    """Also of copies."""
    latent, field = scene(kind)
    everything = [
        replace(step, tokens=Ids((0, 1, 2, 4))) if hasattr(step, "tokens") else step  # type: ignore[type-var]
        for step, _ in INVERTIBLE
        if field.knows_light or step.name not in ("relight", "traverse")
    ]
    of_copy = (Turn(30.0, tokens=Copies((1,))), Scale(2.0, tokens=Copies((0, 1))), Recolor(0.1))
    edit = SceneEdit((*everything, *of_copy, *everything[:1]))
    edited = edit.apply(latent, field)
    assert len(edited) > TOKENS
    back = edit.inverse(latent, field).apply(edited, field)
    assert latent_distance(back, latent) < 1e-5  # thirty steps
    assert torch.equal(back.ids, latent.ids)


@pytest.mark.parametrize("step", FINAL, ids=lambda step: step.name)
def test_what_has_no_inverse_says_so_and_is_named(step: Step) -> None:
    latent, field = scene(LATENT)
    with pytest.raises(EditError, match=rf"step 2 of the edit: {step.name}: .*no inverse"):
        SceneEdit((Move((0.0, 0.0, 0.0)), step)).inverse(latent, field)


def test_every_step_is_tested_here_or_has_tests_of_its_own() -> None:
    tested = {step.name for step, _ in INVERTIBLE} | {step.name for step in FINAL}
    assert tested | {kind.name for kind in (Swap, Interpolate, Oscillate, GenerateMotion)} == set(STEPS)


def test_turning_is_moving_about_the_middle() -> None:
    latent, field = scene(LATENT)
    turned = Turn(90.0, (0.0, 0.0, 2.0)).apply(latent, field)
    moved = Move(rotation=(0.0, 0.0, math.pi / 2)).apply(latent, field)
    assert latent_distance(turned, moved) < 1e-6
    assert latent_distance(Turn(matrix=MATRIX).apply(latent, field), moved) < 1e-6


@pytest.mark.parametrize(
    "matrix",
    [
        ((1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0)),
        ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)),
    ],
)
def test_a_matrix_that_is_no_rotation(matrix: tuple) -> None:
    with pytest.raises(ValueError, match="`matrix` is no rotation"):
        Turn(matrix=matrix)
