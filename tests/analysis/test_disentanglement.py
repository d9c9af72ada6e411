"""`nest-analyze disentanglement` on encoders whose answers are known, and what it refuses."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nest_nerfstudio.analysis.disentanglement import Disentanglement, known_lsbd
from nest_nerfstudio.analysis.factor_data import (
    FACTORS,
    FactorData,
    Observed,
    levels,
    read_factor_data,
    toy_factor_data,
)
from nest_nerfstudio.analysis.image_autoencoder import train_autoencoder
from nest_nerfstudio.analysis.scores import leakage
from nest_nerfstudio.analysis.summaries import PARTS, summarise
from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.edits.states import to_state
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianField, LatentGaussianFieldConfig
from nest_nerfstudio.states import Edit, SunSky
from nest_nerfstudio.types import MotionCode, SceneLatent
from tests.ball_scenes import write_ball_scenes

TOKENS = 30


@pytest.fixture(scope="module")
def data() -> FactorData:
    return toy_factor_data(num_scenes=6, num_views=1, points=4, num_mixed=6, size=16)


@pytest.fixture(scope="module")
def field() -> LatentGaussianField:
    return LatentGaussianFieldConfig().setup(geometry_dim=5)


def perfect(field: LatentGaussianField) -> Callable[[Observed], SceneLatent]:
    """Scenes of random tokens in their known state, in another order each time; motion is a cycle."""

    def encode(state: Observed) -> SceneLatent:
        torch.manual_seed(0)
        shape = torch.randn(TOKENS, 3) * torch.tensor([0.6, 0.3, 0.3])
        shape[:, 0] += shape[:, 0].square()  # a figure has a head
        torch.manual_seed(state.scene)
        latent = SceneLatent(
            ids=torch.arange(TOKENS),
            copies=torch.zeros(TOKENS, dtype=torch.long),
            quats=torch.nn.functional.normalize(torch.randn(TOKENS, 4), dim=1),
            translations=shape + 0.05 * torch.randn(TOKENS, 3),
            geometry=torch.randn(TOKENS, 5),
            appearance=torch.rand(TOKENS, 24) * torch.tensor([1.0, 0.5, 0.1]).repeat(8),
            light=sun_sky_light(SunSky(), torch.zeros(3, 9)),
            motion=cycle(state.phase),
        )
        order = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(id(state) % 1000))
        return to_state(latent, field, state.edit).permute(order)

    return encode


def cycle(phase: float) -> MotionCode:
    still = MotionCode.still(TOKENS, torch.zeros(()), 2)
    angle = torch.tensor(2 * np.pi * phase)
    start = torch.stack([angle.cos(), angle.sin()]).float()
    return replace(still, start=start, phase=torch.tensor(phase), kind="cyclic")


def parts_of(encode: Callable, states: Sequence[Observed], part: str) -> np.ndarray:
    return np.stack([summarise(encode(state))[part].double().numpy() for state in states])


def told(encode: Callable, data: FactorData, factor: str, part: str) -> float:
    """What a linear probe reads of a factor from a part."""
    states, _ = data.of(factor)
    targets = np.array([FACTORS[factor].target(state) for state in states], dtype=float)
    return leakage(parts_of(encode, states, part), targets, np.array([state.scene for state in states]))


def lsbd(encode: Callable, data: FactorData, factor: str, field: LatentGaussianField) -> float:
    states, orbits = data.of(factor)
    return max(value for _, value in known_lsbd(factor, states, orbits, [encode(s) for s in states], field))


@pytest.mark.parametrize("factor", FACTORS)
def test_a_perfect_encoder_leaks_nothing_and_has_no_lsbd(
    factor: str, data: FactorData, field: LatentGaussianField
) -> None:
    encode = perfect(field)
    assert lsbd(encode, data, factor, field) < 1e-6
    for part in PARTS:
        found = told(encode, data, factor, part)
        if part not in FACTORS[factor].parts:
            assert found < 0.1, (part, found)
    assert max(told(encode, data, factor, part) for part in FACTORS[factor].parts) > 0.8


def test_a_light_that_is_written_into_the_geometry_is_found(
    data: FactorData, field: LatentGaussianField
) -> None:
    exact = perfect(field)

    def leaky(state: Observed) -> SceneLatent:
        latent = exact(state)
        shown = latent.light[0, 1:4] * torch.ones(TOKENS, 1)
        return replace(latent, geometry=torch.cat([latent.geometry[:, :2], shown], 1))

    assert told(leaky, data, "light", "geometry") > 0.9
    assert told(leaky, data, "yaw", "geometry") < 0.1


@pytest.mark.parametrize("factor", ["yaw", "place", "light"])
def test_an_encoder_that_does_not_look_scores_worst(
    factor: str, data: FactorData, field: LatentGaussianField
) -> None:
    exact, base = perfect(field), replace(data.mixed[0], edit=Edit(), phase=0.0, time=0.0)

    def blind(state: Observed) -> SceneLatent:
        return exact(replace(base, scene=state.scene))

    assert lsbd(blind, data, factor, field) > 0.5
    assert max(told(blind, data, factor, part) for part in FACTORS[factor].parts) < 0.1


def test_a_still_latent_has_no_part_for_time(data: FactorData, field: LatentGaussianField) -> None:
    exact, still = perfect(field), MotionCode.still(TOKENS, torch.zeros(()))

    def encode(state: Observed) -> SceneLatent:
        return replace(exact(state), motion=still)

    assert lsbd(encode, data, "phase", field) == 1.0
    assert parts_of(encode, data.mixed, "motion").shape == (36, 0)


@pytest.mark.slow
def test_the_report_is_complete(data: FactorData, field: LatentGaussianField) -> None:
    report = Disentanglement(autoencoder_steps=2).measure(perfect(field), field, data)
    assert len(report.rows) == 5 * 6
    assert set(report.plots) == {"leakage", "lsbd"}
    assert {"MIG, latent", "MIG, autoencoder", "D_LSBD yaw, fitted, autoencoder"} <= set(report.figures)
    for factor in FACTORS:
        assert report.figures[f"leakage of {factor}, latent"] < 0.1
        assert report.figures[f"{factor} from cameras"] < 0.1
    assert report.figures["D_LSBD light, fitted, latent"] < 0.05


def test_orbits_vary_one_factor(data: FactorData) -> None:
    for orbit in data.orbits:
        varied = {
            name
            for name, factor in FACTORS.items()
            if len({np.round(factor.target(state), 6).tobytes() for state in orbit.states}) > 1
        }
        assert varied == {orbit.factor}
        assert len(orbit.states) == 4
    found = levels(data.mixed, data.factors)
    assert found.shape == (36, 6)
    assert set(found[:, 0]) == {0, 1, 2}


def test_reads_the_edits_of_a_data_set(tmp_path: Path) -> None:
    found = read_factor_data(write_ball_scenes(tmp_path), num_scenes=4, num_views=8, num_times=3)
    assert found.factors == ["place"]
    assert len(found.orbits) == 4
    for orbit in found.orbits:
        assert [len(state.views) for state in orbit.states] == [4, 4]  # the move has four, so its base too
        assert orbit.states[0].edit == Edit()
    assert len(found.mixed) == 8


def test_a_data_set_without_edits_is_an_error(tmp_path: Path) -> None:
    folder = write_ball_scenes(tmp_path)
    for path in folder.rglob("transforms_*.json"):
        meta = json.loads(path.read_text())
        meta["frames"] = [frame for frame in meta["frames"] if frame["edit"] == "base"]
        path.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"no scene of .* has a state beside its base"):
        read_factor_data(folder, 4, 8, 3)


def test_what_cannot_be_measured_is_an_error(data: FactorData, field: LatentGaussianField) -> None:
    exact = perfect(field)

    def diverged(state: Observed) -> SceneLatent:
        latent = exact(state)
        return replace(latent, geometry=latent.geometry * float("nan"))

    with pytest.raises(ValueError, match="NaN or infinite"):
        told(diverged, data, "yaw", "geometry")
    with pytest.raises(ValueError, match="3 scenes or more, not 2"):
        told(exact, toy_factor_data(2, 1, 2, 1, size=16), "yaw", "positions")
    with pytest.raises(ValueError, match="--scenes must be 3 or more"):
        Disentanglement(scenes=2).run()
    with pytest.raises(ValueError, match="--tokens must be 1 or more"):
        Disentanglement(tokens=0).run()


def test_a_plain_autoencoder_learns_its_images(data: FactorData) -> None:
    views = [state.views for state in data.mixed[:6]]
    codes, psnr = train_autoencoder(views, 8, steps=60)
    assert codes.shape == (6, 8)
    assert psnr > train_autoencoder(views, 8, steps=1)[1] + 3
