import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig
from nest_nerfstudio.data.scenes.index import index_folders, read_index
from nest_nerfstudio.data.scenes.reader import Scene, State, read_scene
from nest_nerfstudio.states import Edit, SunSky
from tests.data.scenes.many_scenes import EDITS, write_scene, write_scenes
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


def test_alpha_of_some_images_only_is_refused(scenes: Path) -> None:
    path = scenes / "cow" / "train" / "turn_01.png"
    with Image.open(path) as image:
        opaque = image.convert("RGB")
    opaque.save(path)
    with pytest.raises(
        ValueError, match=r"scene cow: .*images have no alpha.*: train/turn_01\.png"
    ) as raised:
        read(scenes)
    assert str(raised.value).removeprefix("scene cow: ") in check_dataset(scenes).problems


def test_depth_units_that_differ_are_refused(scenes: Path) -> None:
    for split, unit in (("train", 1e-3), ("test", 1e-2)):
        path = scenes / "cow" / f"transforms_{split}.json"
        meta = json.loads(path.read_text())
        path.write_text(json.dumps({**meta, "depth_unit_scale_factor": unit}))
    with pytest.raises(ValueError, match=r"several depth_unit_scale_factor: 0\.001, 0\.01"):
        read(scenes)


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


def test_images_of_other_sizes_are_brought_to_the_size_of_most(scenes: Path) -> None:
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


def test_a_image_that_both_splits_list_is_of_train(scenes: Path) -> None:
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
    assert all(lens.distorts for lens in scene.dataset.lenses)
    assert not capsys.readouterr().out  # a parser's lines would come again for each of thousands of scenes


def test_frames_that_train_and_test_share_are_read_once(video: Path) -> None:
    parser = NerfstudioDataParserConfig(downscale_factor=1, eval_mode="all")
    scene = read_scene(index_folders([video], parser), 0)
    assert len(scene) == 20
    assert not any(scene.is_test)


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


def test_real_scenes(shared_data: Path) -> None:
    if not (shared_data / "scenes").is_dir():
        pytest.skip(f"no scenes in {shared_data}")
    index = read_index(shared_data / "scenes")
    held = {index.entries[i].category for i in index.split("val")}
    assert held == {entry.category for entry in index.entries}
    scene = read_scene(index, index.find("quadruped_cow"))
    assert (len(scene), len(scene.frames(scene.base_state)), scene.base_state.time) == (48, 13, 0.0)
    assert set(scene.edits) == {"base", "relight", "recolor", "turn", "move"}


def test_times_of_another_unit_are_scaled_to_the_span_of_train(scenes: Path) -> None:
    before = [state.time for state in read(scenes).states]
    for split in ("train", "test"):
        edit_json(
            scenes / "cow" / f"transforms_{split}.json",
            lambda meta: [frame.update(time=10 + 30 * frame["time"]) for frame in meta["frames"]],
        )
    last = 2 / 3  # of the train frames
    assert [state.time for state in read(scenes).states] == pytest.approx(
        [t / last for t in before], abs=1e-5
    )
