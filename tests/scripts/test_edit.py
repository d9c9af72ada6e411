"""`nest-edit`: a sibling run that all tools open and that shares the checkpoint; the run itself stays."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from nerfstudio.scripts.eval import ComputePSNR

from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.edits.selection import Sphere
from nest_nerfstudio.edits.steps import Keep, Move, Oscillate, Recolor, Relight, Retime, Step, Swap
from nest_nerfstudio.io.splats import read_splat_ply
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.scripts import edit as script
from nest_nerfstudio.scripts.edit import edit_run
from nest_nerfstudio.scripts.export import EncodedScenes, splat
from tests.ball_scenes import trained_prior
from tests.small_run import trained_run

pytestmark = pytest.mark.slow
UP = Move((0.0, 0.0, 0.5))
ASIDE = Move((0.3, 0.0, 0.0))
NOWHERE = Keep(Sphere((99.0, 0.0, 0.0), 1.0))
OPTIONS = EncodedScenes(num_views=2, refined=False)


@pytest.fixture(scope="module")
def dynamic(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_run(capture, tmp_path_factory.mktemp("dynamic")).base_dir


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_prior(tmp_path_factory.mktemp("prior"), steps=10).base_dir


def write(folder: Path, *steps: Step, name: str = "edit.json") -> Path:
    SceneEdit(steps).save(folder / name)
    return folder / name


def means(config: Path, folder: Path) -> torch.Tensor:
    scenes = OPTIONS if "nest-prior" in str(config) else EncodedScenes()
    return read_splat_ply(splat(config, folder, times=(0.4,), scenes=scenes)[0]).means


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("method", ["dynamic", "prior"])
def test_an_edited_run_is_opened_by_all_tools_and_stacks(
    method: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run: Path = request.getfixturevalue(method)
    before = contents(run)
    once = edit_run(run, write(tmp_path, UP), name=f"{method}-up")
    printed = capsys.readouterr().out
    for tool in ("ns-viewer", "ns-render", "nest-export"):
        assert f"{tool} " in printed
    assert str(once) in printed
    assert once == run.with_name(f"{method}-up") / "config.yml"
    twice = edit_run(once, write(tmp_path, ASIDE))  # by config.yml; "-edited" by default
    assert twice.parent.name == f"{method}-up-edited"
    assert SceneEdit.load(twice.with_name("edit.json")).steps == (UP, ASIDE)
    (checkpoint,) = (run / "nerfstudio_models").iterdir()
    for edited in (once, twice):
        (shared,) = (edited.parent / "nerfstudio_models").iterdir()
        assert os.path.samefile(shared, checkpoint)
    plain, up, both = (means(c, tmp_path / c.parent.name) for c in (run / "config.yml", once, twice))
    torch.testing.assert_close(up - plain, torch.tensor([0.0, 0.0, 0.5]).expand_as(plain), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        both - plain, torch.tensor([0.3, 0.0, 0.5]).expand_as(plain), atol=1e-4, rtol=0
    )
    scores = [tmp_path / f"{i}.json" for i in range(2)]
    for config, output in zip((run / "config.yml", once), scores, strict=True):
        ComputePSNR(load_config=config, output_path=output).main()
    plain_psnr, edited_psnr = (json.loads(path.read_text())["results"]["psnr"] for path in scores)
    assert edited_psnr < plain_psnr - 1
    assert contents(run) == before


def test_a_run_at_a_fixed_time(dynamic: Path, tmp_path: Path) -> None:
    edited = edit_run(dynamic, name="fixed", fixed_time=0.3)
    assert load_run(edited).model.config.fixed_time == 0.3
    with pytest.raises(ValueError, match="nothing to change"):
        edit_run(dynamic)


def test_an_edited_run_is_found_where_its_checkpoint_is(
    dynamic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if both are named relative to the folder that everything is started from, and that is moved."""
    here = tmp_path / "here" / "outputs" / "scene" / "nest-dynamic"
    here.mkdir(parents=True)
    (here / "a").symlink_to(dynamic)  # a run whose config names a relative output_dir
    config = yaml.load((dynamic / "config.yml").read_text(), Loader=yaml.Loader)
    config.output_dir, config.experiment_name, config.timestamp = Path("outputs"), "scene", "b"
    (here / "b").mkdir()
    (here / "b" / "config.yml").write_text(yaml.dump(config))
    (here / "b" / "nerfstudio_models").symlink_to(dynamic / "nerfstudio_models")
    edit = write(tmp_path, UP)
    with pytest.raises((FileNotFoundError, ValueError), match="start from the folder"):
        edit_run(here / "b", edit)
    monkeypatch.chdir(tmp_path / "here")
    edited = edit_run(Path("outputs/scene/nest-dynamic/b"), edit)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    moved = Path("outputs/scene/nest-dynamic") / edited.parent.name / "config.yml"
    edit.unlink()
    assert len(means(moved, tmp_path / "splats"))


@pytest.mark.parametrize(
    ("method", "steps", "message"),
    [
        ("dynamic", (UP, NOWHERE), r"step 2 of the edit: keep: .*selects none"),
        (
            "dynamic",
            (Relight(gain=2.0),),
            r"step 1 of the edit: relight: the colours of this scene are baked",
        ),
        ("dynamic", (Oscillate(0.5),), r"oscillate: the scene moves already"),
        ("dynamic", (Swap("motion", run="nowhere"),), r"step 1 of the edit: .*no run at .*nowhere"),
        ("dynamic", (Swap("appearance", scene="wolf"),), "there is no scene 'wolf' in a run of one scene"),
        ("prior", (Retime(2.0),), r"retime: the scene does not move"),
        ("prior", (Swap("light", scene="wolf"),), r"no scene 'wolf' among 5; the first are balls_0"),
    ],
)
def test_nothing_is_written_of_what_the_scene_cannot_carry(
    method: str, steps: tuple[Step, ...], message: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: Path = request.getfixturevalue(method)
    siblings = sorted(run.parent.iterdir())
    with pytest.raises(EditError, match=message):
        edit_run(run, write(tmp_path, *steps), name="refused")
    assert sorted(run.parent.iterdir()) == siblings


def test_scenes_of_a_prior_take_factors_from_each_other(prior: Path, tmp_path: Path) -> None:
    steps = tuple(Swap(factor, scene="balls_0") for factor in ("geometry", "poses"))
    edited = edit_run(prior, write(tmp_path, *steps, Swap("light", scene="balls_1")), name="mixed")
    plain = splat(
        prior / "config.yml",
        tmp_path,
        scenes=EncodedScenes(("balls_0",), num_views=4, refined=False),
    )
    mixed = splat(edited, tmp_path / "mixed", scenes=EncodedScenes(num_views=4, refined=False))
    a, b = (read_splat_ply(path).means for path in (plain[0], mixed[0]))
    distances = (a[:, None] - b).norm(dim=-1)  # the same shape, in another order of its tokens
    assert max(distances.amin(0).max(), distances.amin(1).max()) < 1e-5


def test_motion_of_another_run_that_repeats(dynamic: Path, prior: Path, tmp_path: Path) -> None:
    """A still scene of a prior gets it; the free motion of a run needs the field that leads it."""
    with pytest.raises(EditError, match="does not repeat, and the vector field that leads it"):
        edit_run(prior, write(tmp_path, Swap("motion", run=str(dynamic))), name="refused")
    swinging = edit_run(prior, write(tmp_path, Oscillate(0.5, (0.0, 0.0, 0.3))), name="swinging")
    path = tmp_path / "edit.json"
    path.write_text(
        json.dumps(
            {
                "version": 1,
                "steps": [
                    {
                        "action": "swap",
                        "factor": "motion",
                        "scene": "balls_0",
                        "run": os.path.relpath(swinging.parent, tmp_path),
                    }
                ],
            }
        )
    )
    edited = edit_run(prior, path, name="swings-too")
    assert Path(SceneEdit.load(edited.with_name("edit.json")).steps[0].run).is_absolute()
    a, b = splat(edited, tmp_path / "swings", times=(0.0, 0.25), scenes=OPTIONS)
    shifts = (read_splat_ply(a).means - read_splat_ply(b).means).norm(dim=1)
    assert shifts.std() < 1e-3 * shifts.mean()
    assert shifts.mean() > 0.1


def test_names_that_cannot_be(dynamic: Path, tmp_path: Path) -> None:
    edit = write(tmp_path, UP)
    with pytest.raises(FileNotFoundError, match="no run at"):
        edit_run(tmp_path / "nowhere", edit)
    with pytest.raises(FileNotFoundError, match="no edit at"):
        edit_run(dynamic, tmp_path / "nowhere.json")
    for name, message in (
        ("a/b", "no folder's name"),
        ("..", "no folder's name"),
        (dynamic.name, "the run itself"),
    ):
        with pytest.raises(ValueError, match=message):
            edit_run(dynamic, edit, name=name)
    dynamic.with_name("taken").mkdir()
    with pytest.raises(FileExistsError, match="no edited run; give another --name"):
        edit_run(dynamic, edit, name="taken", overwrite=True)
    config = edit_run(dynamic, edit, name="again")
    with pytest.raises(FileExistsError, match="or --overwrite"):
        edit_run(dynamic, edit, name="again")
    recolor = write(tmp_path, Recolor(0.2))
    assert edit_run(dynamic, recolor, name="again", overwrite=True) == config
    assert SceneEdit.load(config.with_name("edit.json")).steps == (Recolor(0.2),)


@pytest.mark.parametrize("broken", [("link",), ("link", "symlink")])
def test_systems_that_do_not_link(
    dynamic: Path,
    broken: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("cannot link")

    for name in broken:
        monkeypatch.setattr(script.os, name, refuse)
    config = edit_run(dynamic, write(tmp_path, UP), name="-".join(broken))
    (shared,) = (config.parent / "nerfstudio_models").iterdir()
    assert shared.is_symlink() == (broken == ("link",))
    assert ("is copied" in capsys.readouterr().out) == (len(broken) == 2)


def test_command_line(dynamic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*arguments: object) -> Callable[[], None]:
        monkeypatch.setattr(sys, "argv", ["nest-edit", *map(str, arguments)])
        return script.entrypoint

    call(dynamic, write(tmp_path, UP), "--name", "called")()
    assert dynamic.with_name("called").is_dir()
    bad = tmp_path / "bad.json"
    bad.write_text('{"version": 1, "steps": [{"action": "explode"}]}')
    with pytest.raises(SystemExit, match=r"nest-edit: .*step 1: unknown action 'explode'; there are move, "):
        call(dynamic, bad)()
