"""`nest-analyze equivariance`: what commutes is exact, and what does not is found."""

from pathlib import Path

import pytest
import torch

from nest_nerfstudio.analysis.commuting import random_motion, set_distance
from nest_nerfstudio.analysis.equivariance import CONTROL, Equivariance
from nest_nerfstudio.geometry.quaternion import quat_rotate
from tests.small_run import trained_run


@pytest.mark.slow
def test_fresh_modules_are_exact_and_the_control_is_not() -> None:
    report = Equivariance(draws=1, tokens=24, views=2).run()
    assert report.figures["exact"] == report.figures["rows"] == 50
    assert report.figures["control is caught"]
    assert {row["module"] for row in report.rows if not row["exact"]} == {CONTROL}
    assert set(report.plots) == {"errors"}


@pytest.mark.slow
def test_a_run_of_one_scene_has_no_encoder(capture: Path, tmp_path: Path) -> None:
    trainer = trained_run(capture, tmp_path)
    report = Equivariance(load_config=trainer.base_dir / "config.yml", draws=1).run()
    assert {row["module"] for row in report.rows} == {
        "field",
        "flow",
        "pose",
        "field, flow, pose",
        "field → Gaussians",
        CONTROL,
    }
    assert report.figures["exact"] == report.figures["rows"]
    assert report.figures["control is caught"]


def test_motions_are_of_their_group() -> None:
    generator, up = torch.Generator().manual_seed(0), torch.tensor([0.0, 0, 1.0]).double()
    for group, moves, turns_up in (("se3", True, True), ("so3", False, True), ("azimuth", False, False)):
        quats, shift = random_motion(group, generator, torch.float64)  # type: ignore[arg-type]
        assert bool(shift.any()) == moves
        assert ((quat_rotate(quats, up) - up).norm() > 1e-6).item() == turns_up


def test_sets_are_compared_in_any_order() -> None:
    rows = torch.randn(50, 3)
    assert set_distance(rows[torch.randperm(50)], rows) == 0
    moved = rows.clone()
    moved[3] += 1.0
    assert set_distance(moved, rows) > 0.01
    assert set_distance(rows[:49], rows) == float("inf")


def test_impossible_settings_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--draws must be 1 or more, not 0"):
        Equivariance(draws=0).run()
    with pytest.raises(FileNotFoundError, match="no run at"):
        Equivariance(load_config=tmp_path / "config.yml").run()
