"""The folder of the viewer that writes what is shown as a splat file, on a real viser server."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nest_nerfstudio.io.splats import read_splat_ply
from nest_nerfstudio.types import Gaussians
from nest_nerfstudio.viewer.splat_export import SplatExport
from tests.io.some_gaussians import assert_same, make_gaussians
from tests.viewer.waiting import eventually


class Scene:
    """It moves along x, one unit per unit of time."""

    def __init__(self, moves: bool = True) -> None:
        self.moves = moves
        self.gaussians = make_gaussians()

    def gaussians_at(self, time: float) -> Gaussians:
        means = self.gaussians.means + torch.tensor([time * self.moves, 0.0, 0.0])
        return Gaussians(**{**vars(self.gaussians), "means": means})


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.fixture
def shown(viewer: SimpleNamespace, scene: Scene, tmp_path: Path) -> SimpleNamespace:
    """The viewer of a run in `tmp_path` that shows the scene, and its `export`."""
    viewer.log_filename = tmp_path / "a run" / "viewer.log"
    viewer.pipeline = SimpleNamespace(model=SimpleNamespace(shown_scene=lambda: scene))
    viewer.export = SplatExport(viewer, lambda: ("horse", ["--scenes.names", "horse"]))
    return viewer


def message(shown: SimpleNamespace) -> str:
    return shown.export._message.content


def test_a_click_writes_the_scene_at_the_displayed_time(shown, scene, tmp_path) -> None:
    shown.control_panel.time = 0.25
    shown.elements["Write splat file"].value = True  # what a click does
    path = tmp_path / "a run" / "exports" / "horse_t0.2500.ply"
    assert eventually(lambda: f"Wrote `{path}`" in message(shown))
    assert_same(read_splat_ply(path), scene.gaussians_at(0.25))
    assert eventually(lambda: not shown.elements["Write splat file"].disabled)


def test_it_says_what_command_writes_a_sequence(shown, tmp_path) -> None:
    shown.elements["Folder"].value = str(tmp_path / "elsewhere")
    shown.export.write()
    assert (tmp_path / "elsewhere" / "horse_t0.0000.ply").is_file()
    command = shlex.split(message(shown).split("```")[1])
    run = ["nest-export", "splat", "--load-config", str(tmp_path / "a run" / "config.yml")]
    rest = ["--output-dir", str(tmp_path / "elsewhere"), "--scenes.names", "horse", "--num-times", "25"]
    assert command == [*run, *rest]


def test_a_scene_that_stands_still_has_no_time(shown, scene, tmp_path) -> None:
    scene.moves = False
    shown.export.write()
    assert (tmp_path / "a run" / "exports" / "horse.ply").is_file()
    assert "--num-times" not in message(shown)


def test_what_is_not_finite_is_left_out(shown, scene, tmp_path) -> None:
    scene.gaussians.means[3] = torch.nan
    shown.export.write()
    written = read_splat_ply(tmp_path / "a run" / "exports" / "horse_t0.0000.ply")
    assert len(written) == len(scene.gaussians) - 1


def test_a_folder_that_cannot_be_made_is_told(shown, tmp_path) -> None:
    (tmp_path / "file").touch()
    shown.elements["Folder"].value = str(tmp_path / "file" / "exports")
    shown.export.write()
    assert message(shown).startswith("Nothing was written: ")
    assert not shown.elements["Write splat file"].disabled


def test_a_scene_without_gaussians_is_told(shown, scene) -> None:
    scene.gaussians = scene.gaussians.select(torch.zeros(len(scene.gaussians), dtype=torch.bool))
    shown.export.write()
    assert "no Gaussians" in message(shown)


def test_it_waits_for_a_step_of_the_training(shown) -> None:
    with shown.train_lock:
        shown.elements["Write splat file"].value = True
        assert eventually(lambda: message(shown) == "Writing …")
        assert shown.elements["Write splat file"].disabled
    assert eventually(lambda: message(shown).startswith("Wrote"))


def test_every_element_has_a_hint(shown) -> None:
    assert shown.hints["Folder"]
    assert shown.hints["Write splat file"]
