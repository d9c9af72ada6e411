"""Probes and classic scores of codes whose value is known."""

import numpy as np
import pytest

from nest_nerfstudio.analysis.scores import classic_scores, factor_vae, leakage, mig, sap

RNG = np.random.default_rng(0)
SCENES = np.repeat(np.arange(20), 20)
FACTORS = RNG.integers(0, 4, (400, 3))
FIRST = FACTORS[:, :1].astype(float)
PERFECT = FACTORS + 0.01 * RNG.normal(size=(400, 3))


def rotated(codes: np.ndarray) -> np.ndarray:
    """All numbers mixed by one rotation: nothing is lost, and no number is of one factor."""
    axis = np.full(3, 1 / 3**0.5)
    cross = np.cross(np.eye(3), axis)
    turn = np.eye(3) + np.sin(0.7) * cross + (1 - np.cos(0.7)) * cross @ cross
    return (codes - codes.mean(0)) @ turn


def test_a_perfect_code_scores_one() -> None:
    scores = classic_scores(PERFECT, FACTORS, SCENES)
    assert scores["MIG"] > 0.95
    assert scores["DCI disentanglement"] > 0.95
    assert scores["DCI completeness"] > 0.95
    assert scores["DCI informativeness"] > 0.95
    assert scores["SAP"] > 0.2  # one linear boundary on one number separates not all of four levels
    assert scores["FactorVAE"] > 0.95


def test_sap_of_two_levels_is_a_half_at_best() -> None:
    """The best number is always right, and the second best guesses one of two levels."""
    levels = FACTORS % 2
    assert sap(levels.astype(float), levels, SCENES) == pytest.approx(0.5, abs=0.06)


def test_a_rotated_code_is_caught() -> None:
    """The scores of single numbers fall, and parts that are each one number leak."""
    mixed = rotated(PERFECT)
    scores = classic_scores(mixed, FACTORS, SCENES)
    assert scores["MIG"] < 0.3
    assert scores["DCI disentanglement"] < 0.5
    others = (slice(1, 2), slice(2, 3))
    assert max(leakage(mixed[:, other], FIRST, SCENES) for other in others) > 0.1
    assert max(leakage(PERFECT[:, other], FIRST, SCENES) for other in others) < 0.05
    assert leakage(mixed, FIRST, SCENES) > 0.95  # nothing is lost


def test_a_constant_code_scores_worst() -> None:
    codes = np.ones((400, 3))
    scores = classic_scores(codes, FACTORS, SCENES)
    assert scores["MIG"] == pytest.approx(0, abs=1e-9)
    assert scores["DCI disentanglement"] == scores["DCI completeness"] == 0
    assert scores["DCI informativeness"] < 0.1
    assert scores["SAP"] == 0
    assert scores["FactorVAE"] == pytest.approx(1 / 3)
    assert leakage(codes, FIRST, SCENES) <= 0.01


@pytest.mark.parametrize("probe", ["linear", "mlp"])
def test_leakage_finds_what_is_there_and_nothing_else(probe: str) -> None:
    codes, target = RNG.normal(size=(400, 10)), RNG.normal(size=(400, 2))
    assert leakage(codes, target, SCENES, probe) < 0.05  # type: ignore[arg-type]
    told = np.concatenate([codes, target @ RNG.normal(size=(2, 4))], 1)
    assert leakage(told, target, SCENES, probe) > 0.9  # type: ignore[arg-type]


def test_an_mlp_finds_what_is_not_linear() -> None:
    codes = RNG.normal(size=(400, 2))
    target = np.cos(2 * codes[:, :1])
    assert leakage(codes, target, SCENES, "linear") < 0.1
    assert leakage(codes, target, SCENES, "mlp") > 0.6


def test_what_only_tells_scenes_apart_says_nothing_of_others() -> None:
    """A code that names the scene: probes that had seen the scene would know its factor."""
    target = RNG.normal(size=20)[SCENES][:, None]
    assert leakage(np.eye(20)[SCENES], target, SCENES) < 0.05


def test_no_numbers_say_nothing() -> None:
    assert leakage(np.zeros((400, 0)), FIRST, SCENES) == 0


def test_gap_and_vote_are_of_single_numbers() -> None:
    doubled = np.concatenate([PERFECT, PERFECT], 1)
    assert mig(doubled, FACTORS) < 0.05
    assert factor_vae(doubled, FACTORS) > 0.95


def test_what_cannot_be_scored_is_an_error() -> None:
    with pytest.raises(ValueError, match="NaN"):
        leakage(np.where(FACTORS > 2, np.nan, PERFECT), FIRST, SCENES)
    with pytest.raises(ValueError, match="one value in all states"):
        leakage(PERFECT, np.ones((400, 1)), SCENES)
    with pytest.raises(ValueError, match="3 scenes or more, not 2"):
        leakage(PERFECT, FIRST, SCENES % 2)
    with pytest.raises(ValueError, match="one level in all states"):
        classic_scores(PERFECT, FACTORS * [1, 0, 1], SCENES)
    with pytest.raises(ValueError, match="have two"):
        classic_scores(PERFECT[:, :1], FACTORS, SCENES)
