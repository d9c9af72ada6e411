"""`nest-export splat`: one file per time, arguments, and which runs it takes."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nest_nerfstudio.io.splats import read_splat_ply, undo_transform
from nest_nerfstudio.scripts import export
from nest_nerfstudio.scripts.export import splat
from nest_nerfstudio.scripts.exported_scenes import EncodedScenes
from nest_nerfstudio.types import Gaussians
from tests.io.some_gaussians import assert_same, make_gaussians, make_transform
from tests.scripts.runs import fake_run


class FakeScene:
    """A model of one scene, which it is itself: it moves along x, one unit per unit of time."""

    moves = True

    def __init__(self) -> None:
        self.gaussians = make_gaussians()

    def scene(self) -> "FakeScene":
        return self

    shown_scene = scene

    def gaussians_at(self, time: float) -> Gaussians:
        means = self.gaussians.means + torch.tensor([time, 0.0, 0.0])
        return Gaussians(**{**vars(self.gaussians), "means": means})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return fake_run(tmp_path, monkeypatch, FakeScene(), FakeScene)


def test_a_sequence_of_times(run: SimpleNamespace) -> None:
    paths = splat(run.config, run.out, num_times=5, t0=-0.5, t1=1.5, sh_degree=1)
    assert [p.name for p in paths] == [f"frame_{i:04}.ply" for i in range(5)]
    assert sorted(paths) == sorted(run.out.iterdir())
    for path, time in zip(paths, (-0.5, 0.0, 0.5, 1.0, 1.5), strict=True):
        found = read_splat_ply(path)
        torch.testing.assert_close(found.means, run.scene.gaussians_at(time).means)
        assert found.sh_degree == 1


def test_supersplat_takes_a_sequence_for_one(run: SimpleNamespace) -> None:
    """Its rule: names of one prefix that end in a number, in the order of these numbers."""
    names = [path.name for path in splat(run.config, run.out, num_times=12)]
    found = [re.fullmatch(r"(.*?)(\d+)(?:\.compressed)?\.ply", name) for name in names]
    assert {match[1] for match in found if match} == {"frame_"}
    assert [int(match[2]) for match in found if match] == list(range(12))
    assert sorted(names) == names


def test_first_time_by_default_and_times_as_given(run: SimpleNamespace) -> None:
    assert [p.name for p in splat(run.config, run.out)] == ["splat_t0.0000.ply"]
    paths = splat(run.config, run.out, times=(0.75, 0.25))
    assert [p.name for p in paths] == ["splat_t0.7500.ply", "splat_t0.2500.ply"]
    assert_same(read_splat_ply(paths[0]), run.scene.gaussians_at(0.75))


def test_original_frame_on_request(run: SimpleNamespace) -> None:
    (path,) = splat(run.config, run.out, original_frame=True)
    assert_same(read_splat_ply(path), undo_transform(run.scene.gaussians, *make_transform()))


def test_gaussians_that_are_not_finite_are_left_out_and_told(
    run: SimpleNamespace, capsys: pytest.CaptureFixture
) -> None:
    run.scene.gaussians.means[3, 1] = float("nan")
    run.scene.gaussians.sh[5, 2, 0] = float("inf")
    (path,) = splat(run.config, run.out)
    assert len(read_splat_ply(path)) == 18
    assert "left out 2 of 20" in capsys.readouterr().out


def test_scene_without_one_good_gaussian(run: SimpleNamespace) -> None:
    run.scene.gaussians.means[:] = float("nan")
    with pytest.raises(ValueError, match="no Gaussians"):
        splat(run.config, run.out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"times": (0.5,), "num_times": 3}, "not both"),
        ({"num_times": 0}, "is no sequence"),
        ({"num_times": 3, "t0": 1.0, "t1": 0.0}, "is no sequence"),
        ({"times": (float("nan"),)}, "finite"),
        ({"num_times": 3, "t1": float("inf")}, "finite"),
        ({"times": (0.5, 0.50001)}, "one file name"),
        ({"sh_degree": 4}, "from 0 to 3"),
    ],
)
def test_bad_arguments(run: SimpleNamespace, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        splat(run.config, run.out, **arguments)


def test_other_methods_are_refused_before_they_are_built(run: SimpleNamespace) -> None:
    run.target = object
    with pytest.raises(ValueError, match="does not export some-method; use"):
        splat(run.config, run.out)


def test_what_stands_still_is_the_same_at_all_times(run: SimpleNamespace) -> None:
    run.scene.moves = False
    assert len(splat(run.config, run.out)) == 1
    with pytest.raises(ValueError, match="splat does not move"):
        splat(run.config, run.out, num_times=3)


def test_options_of_many_scenes_are_refused_for_one(run: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="for runs of nest-prior"):
        splat(run.config, run.out, scenes=EncodedScenes(names=("moon",)))


def test_command_line(run: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--load-config", str(run.config), "--output-dir", str(run.out), "--times", "0.5", "1.25"]
    monkeypatch.setattr(sys, "argv", ["nest-export", "splat", *options])
    export.entrypoint()
    assert sorted(p.name for p in run.out.iterdir()) == ["splat_t0.5000.ply", "splat_t1.2500.ply"]
    run.config.unlink()
    with pytest.raises(SystemExit, match="nest-export: no run at"):
        export.entrypoint()
