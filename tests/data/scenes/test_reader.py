import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig
from nest_nerfstudio.data.scenes.dataparser import NestScenesConfig, parser_named
from nest_nerfstudio.data.scenes.edits import read_edits
from nest_nerfstudio.data.scenes.index import ScenesIndex, index_folders, read_index
from nest_nerfstudio.data.scenes.reader import Scene, State, log_once, read_scene
from nest_nerfstudio.types import Edit, SunSky
from tests.data.scenes.many_scenes import EDITS, write_index, write_scene, write_scenes
from tests.data.small_scenes import edit_json, write_image

BASE = State("base", 0.0)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path)


def read(scenes: Path, number: int = 0) -> Scene:
    return read_scene(read_index(scenes), number)


def edit_frame(scenes: Path, place: int = 0, split: str = "train", **changes: Any) -> None:
    """Change one frame of the first scene."""
    path = scenes / "cow" / f"transforms_{split}.json"
    edit_json(path, lambda meta: meta["frames"][place].update(changes))


def listed(folder: Path, counts: dict[str, int], holdout: int) -> ScenesIndex:
    """An index of so many scenes of each category, the categories mixed in the list."""
    names = sorted((i, kind) for kind, count in counts.items() for i in range(count))
    write_index(folder, {f"{kind}_{i}": kind for i, kind in names})
    return read_index(folder, holdout)


def names(index: ScenesIndex, split: Any) -> list[str]:
    return [index.entries[i].name for i in index.split(split)]


# The index


def test_one_scene_in_five_of_every_category_is_held_out(tmp_path: Path) -> None:
    index = listed(tmp_path, {"fish": 14, "horse": 5, "car": 2}, holdout=5)
    assert names(index, "val") == ["fish_2", "horse_2", "fish_7", "fish_12"]
    assert sorted(index.split("train") + index.split("val")) == list(range(21))


@pytest.mark.parametrize(("holdout", "train", "val"), [(0, 7, 0), (1, 0, 7), (2, 4, 3)])
def test_other_holdouts(tmp_path: Path, holdout: int, train: int, val: int) -> None:
    index = listed(tmp_path, {"fish": 5, "car": 2}, holdout)
    assert (len(index.split("train")), len(index.split("val"))) == (train, val)


def test_an_index_reads_no_scene(tmp_path: Path) -> None:
    index = listed(tmp_path, {"fish": 3}, holdout=0)  # no folder of a scene is there
    assert index.find("fish_1") == 1
    with pytest.raises(ValueError, match="no scene shark among 3"):
        index.find("shark")
    with pytest.raises(FileNotFoundError, match=r"scene fish_1: .*fish_1 has no transforms_train.json"):
        read_scene(index, 1)


def test_copies_of_an_index_cost_nothing(tmp_path: Path) -> None:
    index = listed(tmp_path, {"fish": 3}, holdout=0)
    assert deepcopy({"scenes": index})["scenes"] is index


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "scenes.json: not valid JSON"),
        ('{"scenes": 3}', "no list `scenes` with at least one entry"),
        ('{"scenes": [{"category": "fish"}]}', "scenes.json: scene 0 is not a table .* with a name"),
        ('{"scenes": []}', "no list `scenes` with at least one entry"),
        ('{"scenes": [{"name": "a"}, {"name": "b"}, {"name": "a"}]}', "two scenes are named a"),
    ],
)
def test_a_bad_index(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "scenes.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_index(tmp_path)


def test_no_index_and_bad_holdout(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no scenes.json; --data takes a folder with one"):
        read_index(tmp_path)
    with pytest.raises(ValueError, match="holdout must be 0"):
        listed(tmp_path, {"fish": 1}, holdout=-1)


# Scenes with edits


def test_both_splits_pool_their_frames(scenes: Path) -> None:
    scene = read(scenes)
    assert Counter(s for s in scene.states if s.time == 0) == {
        BASE: 6,
        State("relight", 0.0): 4,
        State("turn", 0.0): 3,
    }
    assert scene.base_state == BASE
    assert [len(scene.frames(BASE, test)) for test in (None, False, True)] == [6, 4, 2]
    for i in range(len(scene)):
        path = scene.dataset.image_filenames[i]
        assert path.parent.name == ("test" if scene.is_test[i] else "train")
        assert path.name.startswith(scene.states[i].edit)


def test_cameras(scenes: Path) -> None:
    views = read(scenes).views
    focal = 6 / math.tan(0.35)
    torch.testing.assert_close(views.Ks[0], torch.tensor([[focal, 0, 6], [0, focal, 4], [0, 0, 1.0]]))
    centres = -(views.viewmats[:, :3, :3].mT @ views.viewmats[:, :3, 3:])[..., 0]
    torch.testing.assert_close(centres[:, :2].norm(dim=-1), torch.full((16,), 4.0))
    ahead = views.viewmats @ torch.tensor([0.0, 0.0, 0.5, 1.0])  # all look level at the axis
    torch.testing.assert_close(ahead[:, :3], torch.tensor([0.0, 0.0, 4.0]).expand(16, 3), atol=1e-5, rtol=0)


def test_edits(scenes: Path) -> None:
    edits = read(scenes).edits
    assert edits == {
        "base": Edit(),
        "relight": Edit(light=SunSky(direction=(1.0, 0.0, -1.0), sun=2.0)),
        "turn": Edit(yaw=1.5),
    }


def test_a_light_may_be_unknown() -> None:
    edits = read_edits({"base": {}, "relight": {"light": None}, "turn": {"yaw": 1.0}}, "file")
    assert (edits["relight"].light, edits["base"].light) == (None, SunSky())
    assert edits["base"].differences(edits["relight"]) == ["light"]
    unlit = read_edits({"base": {"light": None}, "turn": {"yaw": 1.0}}, "file")
    assert unlit["turn"] == Edit(light=None, yaw=1.0)


def test_edits_stand_in_the_light_of_the_base() -> None:
    stored = {"base": {"light": {"ambient": 0.1}}, "turn": {"yaw": 1}, "dim": {"light": {"sun": 1.0}}}
    edits = read_edits(stored, "here")
    assert edits["turn"] == Edit(light=SunSky(ambient=0.1), yaw=1.0)
    assert edits["dim"].light == SunSky(sun=1.0, ambient=0.1)
    assert read_edits({}, "here") == {"base": Edit()}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"brightness": 2}, "edit x: unknown key 'brightness'; known are: light, hue, yaw"),
        ({"light": {"moon": 1}}, "edit x: light: unknown key 'moon'"),
        ({"yaw": "left"}, r"yaw must be 1 finite number\(s\), not left"),
        ({"hue": math.nan}, r"hue must be 1 finite number\(s\), not nan"),
        ({"translate": [1, 2]}, r"translate must be 3 finite number\(s\), not \[1, 2\]"),
        ({"light": {"direction": [0, 0, 0]}}, "direction must not be zero"),
        ({"light": 3}, "light: must be a table of direction, sun, ambient, not 3"),
        (3, "edit x: must be a table of light, hue"),
    ],
)
def test_a_bad_edit_is_named(scenes: Path, edit: Any, message: str) -> None:
    edit_json(scenes / "cow" / "transforms_train.json", lambda meta: meta["edits"].update(x=edit))
    with pytest.raises(ValueError, match=rf"scene cow: .*transforms_train.json: .*{message}"):
        read(scenes)


def test_a_frame_of_an_edit_that_is_not_listed(scenes: Path) -> None:
    edit_frame(scenes, edit="melt")
    with pytest.raises(
        ValueError, match=rf"scene cow: 1 frame\(s\) show the edit 'melt'; there are: {', '.join(EDITS)}"
    ):
        read(scenes)


def test_a_scene_without_edits_is_all_base(scenes: Path) -> None:
    for split in ("train", "test"):
        path = scenes / "cow" / f"transforms_{split}.json"
        edit_json(path, lambda meta: [frame.pop("edit") for frame in meta["frames"]] and meta.pop("edits"))
    assert Counter(read(scenes).states)[BASE] == 13


def test_missing_images_are_named(scenes: Path) -> None:
    (scenes / "cow" / "train" / "turn_01.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"scene cow: 1 of 16 files are missing: .*turn_01.png"):
        read(scenes)
    assert len(read(scenes, 1)) == 16


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_poses_that_are_not_finite_are_named(scenes: Path, value: float) -> None:
    pose = [[1.0, 0, 0, value], [0, 1.0, 0, 0], [0, 0, 1.0, 4], [0, 0, 0, 1.0]]
    edit_frame(scenes, transform_matrix=pose)
    with pytest.raises(
        ValueError,
        match=r"scene cow: .*train.json: frame ./train/base_00: .*not a finite 4×4 matrix",
    ):
        read(scenes)


def test_pictures_of_other_sizes_are_brought_to_the_size_of_most(scenes: Path) -> None:
    before = read(scenes)
    write_image(scenes / "cow" / "train" / "base_01.png", size=(24, 8))
    scene = read(scenes)
    assert (scene.views.width, scene.views.height) == (12, 8)
    assert scene.dataset.get_numpy_image(1).shape == (8, 12, 4)
    focal = 12 / math.tan(0.35)  # of 24 pixels; half of it in x, all of it in y
    torch.testing.assert_close(
        scene.views.Ks[1], torch.tensor([[focal / 2, 0, 6], [0, focal, 4], [0, 0, 1.0]])
    )
    torch.testing.assert_close(scene.views.Ks[2:], before.views.Ks[2:])


def test_a_picture_that_both_splits_list_is_of_train(scenes: Path) -> None:
    path = scenes / "cow" / "transforms_train.json"
    first = json.loads(path.read_text())["frames"][0]
    edit_json(
        path.with_name("transforms_test.json"),
        lambda meta: meta["frames"].append({**first, "file_path": "test/../train/base_00"}),
    )
    scene = read(scenes)
    assert len(scene) == 16
    assert not scene.is_test[0]


def test_a_scene_without_a_test_split_or_base(scenes: Path) -> None:
    (scenes / "cow" / "transforms_test.json").unlink()
    assert not any(read(scenes).is_test)
    edit_json(
        scenes / "cow" / "transforms_train.json",
        lambda meta: meta.update(frames=[frame for frame in meta["frames"] if frame["edit"] == "turn"]),
    )
    with pytest.raises(ValueError, match="scene cow has no train frame of the state `base`"):
        _ = read(scenes).base_state


# Scenes through nerfstudio's parsers


def test_a_list_of_blender_scenes(tmp_path: Path) -> None:
    folders = [tmp_path / "animals" / "cow", tmp_path / "cars" / "taxi"]
    for i, folder in enumerate(folders):
        write_scene(folder, seed=100 * i, views={"base": 6})
        for key in ("val",):
            shutil.copy(folder / "transforms_test.json", folder / f"transforms_{key}.json")
    index = index_folders(folders, BlenderDataParserConfig(), holdout=0)
    assert [(entry.name, entry.category) for entry in index.entries] == [("cow", "animals"), ("taxi", "cars")]
    scene = read_scene(index, 1)
    assert Counter(scene.states) == {BASE: 9}
    assert scene.views.times is None
    assert scene.edits == {"base": Edit(light=None)}
    assert sum(scene.is_test) == 3
    focal = 6 / math.tan(0.35)
    torch.testing.assert_close(scene.views.Ks[0, 0, 0], torch.tensor(focal))


def test_a_state_for_every_time(dnerf: Path) -> None:
    scene = read_scene(index_folders([dnerf], NestDynamicDataParserConfig()), 0)
    assert len(scene) == 14
    assert Counter(scene.states)[BASE] == 1
    assert scene.states[1] == State("base", round(1 / 11, 6))


def test_nerfstudio_data_with_a_lens(video: Path, capsys: pytest.CaptureFixture) -> None:
    scene = read_scene(index_folders([video], NerfstudioDataParserConfig(downscale_factor=1)), 0)
    assert Counter(scene.states) == {BASE: 20}
    assert sum(scene.is_test) == 2
    assert scene.dataset.cameras.distortion_params.any()
    assert not capsys.readouterr().out  # a parser's lines would come again for each of thousands of scenes


def test_frames_that_train_and_test_share_are_read_once(video: Path) -> None:
    parser = NerfstudioDataParserConfig(downscale_factor=1, eval_mode="all")
    scene = read_scene(index_folders([video], parser), 0)
    assert len(scene) == 20
    assert not any(scene.is_test)


def test_folders_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"two scenes are named cow: .*/a/cow and .*/b/cow"):
        index_folders([tmp_path / "a" / "cow", tmp_path / "b" / "cow"], BlenderDataParserConfig())


def test_a_parser_by_name() -> None:
    assert isinstance(parser_named("blender-data"), BlenderDataParserConfig)
    with pytest.raises(ValueError, match="no data parser lender-data; there are: arkit-data"):
        parser_named("lender-data")


def test_poses_from_a_parser_that_are_not_finite_are_named(dnerf: Path) -> None:
    edit_json(
        dnerf / "transforms_train.json",
        lambda meta: meta["frames"][3]["transform_matrix"][0].__setitem__(3, math.nan),
    )
    with pytest.raises(ValueError, match=rf"scene {dnerf.name}: .*camera \[3\] is not finite"):
        read_scene(index_folders([dnerf], BlenderDataParserConfig()), 0)


def test_what_a_parser_cannot_read_is_named(dnerf: Path) -> None:
    edit_json(dnerf / "transforms_train.json", lambda meta: meta.pop("camera_angle_x"))
    with pytest.raises(ValueError, match=rf"scene {dnerf.name}: Blender cannot read .*camera_angle_x"):
        read_scene(index_folders([dnerf], BlenderDataParserConfig()), 0)


# The data parser


def test_frames_for_the_viewer_are_few_and_know_their_scene(tmp_path: Path) -> None:
    parser = NestScenesConfig(data=write_scenes(tmp_path), holdout=3, max_frames=5).setup()
    train, val = (parser.get_dataparser_outputs(split=split) for split in ("train", "val"))
    assert train.cameras.metadata["scene"].flatten().tolist() == [0, 0, 2, 2]
    assert val.cameras.metadata["scene"].flatten().tolist() == [1, 1]
    assert [path.name for path in val.image_filenames] == ["base_02.png", "base_05.png"]
    assert train.metadata["scenes"].entries[2].name == "trex"
    assert int(train.cameras[2:3].metadata["scene"]) == 2
    few = NestScenesConfig(data=tmp_path, holdout=0, max_frames=2).setup().get_dataparser_outputs("train")
    assert few.cameras.metadata["scene"].flatten().tolist() == [0, 1]


def test_a_split_without_scenes_shows_all(scenes: Path, capsys: pytest.CaptureFixture) -> None:
    log_once.cache_clear()
    parser = NestScenesConfig(data=scenes, holdout=0).setup()
    val = parser.get_dataparser_outputs(split="val")
    assert val.cameras.metadata["scene"].unique().tolist() == [0, 1, 2]
    assert {path.parent.name for path in val.image_filenames} == {"test"}
    assert "split val has no scene of its own" in capsys.readouterr().out


def test_scenes_of_several_sizes_for_the_viewer(scenes: Path) -> None:
    for path in (scenes / "wolf").glob("*/*.png"):
        Image.open(path).resize((6, 4)).save(path)
    train = NestScenesConfig(data=scenes, holdout=0).setup().get_dataparser_outputs("train")
    assert train.cameras.width.flatten().unique().tolist() == [6, 12]
    assert cameras_to_views(train.cameras[:1]).width == 12


def test_bad_scenes_stop_or_are_left_out(scenes: Path, capsys: pytest.CaptureFixture) -> None:
    (scenes / "wolf" / "train" / "base_00.png").unlink()
    config = NestScenesConfig(data=scenes, holdout=0)
    with pytest.raises(FileNotFoundError, match="scene wolf"):
        config.setup().get_dataparser_outputs("train")
    config.skip_bad_scenes = True
    outputs = config.setup().get_dataparser_outputs("train")
    assert outputs.cameras.metadata["scene"].unique().tolist() == [0, 2]
    assert "Skipping a scene: scene wolf" in capsys.readouterr().out.replace("\n", " ")


def test_no_frames_asked_for(scenes: Path) -> None:
    with pytest.raises(ValueError, match="max_frames must be 1 or more"):
        NestScenesConfig(data=scenes, max_frames=0).setup().get_dataparser_outputs("train")


def test_settings_from_the_command_line(tmp_path: Path) -> None:
    write_scene(tmp_path / "animals" / "cow")
    shutil.copy(
        tmp_path / "animals" / "cow" / "transforms_test.json",
        tmp_path / "animals" / "cow" / "transforms_val.json",
    )
    line = f"--data {tmp_path} --scenes animals/cow --scene-format blender-data --holdout 0"
    config = tyro.cli(NestScenesConfig, args=line.split())
    index = config.setup().index
    assert [(entry.name, entry.folder) for entry in index.entries] == [("cow", tmp_path / "animals" / "cow")]
    assert len(read_scene(index, 0)) == 16


def test_the_parser_imports_neither_configs_nor_data_managers() -> None:
    """nerfstudio loads it while its own configs are being put together."""
    code = "import sys, nest_nerfstudio.data.scenes.dataparser; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "nerfstudio.data.dataparsers.base_dataparser" in loaded
    early = ("nerfstudio.data.datamanagers", "nerfstudio.configs.dataparser_configs", "nerfstudio.engine")
    assert not [name for name in loaded if name.startswith(early)]


def test_real_scenes(shared_data: Path) -> None:
    if not (shared_data / "scenes").is_dir():
        pytest.skip(f"no scenes in {shared_data}")
    index = read_index(shared_data / "scenes")
    held = {index.entries[i].category for i in index.split("val")}
    assert held == {entry.category for entry in index.entries}
    scene = read_scene(index, index.find("quadruped_cow"))
    assert (len(scene), len(scene.frames(scene.base_state)), scene.base_state.time) == (48, 13, 0.0)
    assert set(scene.edits) == {"base", "relight", "recolor", "turn", "move"}
