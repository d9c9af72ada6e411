import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from PIL import Image

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.data.scenes.dataparser import NestScenesConfig, parser_named
from nest_nerfstudio.data.scenes.reader import log_once, read_scene
from tests.data.scenes.many_scenes import write_scene, write_scenes


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path)


def test_a_parser_by_name() -> None:
    assert isinstance(parser_named("blender-data"), BlenderDataParserConfig)
    with pytest.raises(ValueError, match="no data parser lender-data; there are: arkit-data"):
        parser_named("lender-data")


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
    assert "split val has no scene: using all scenes" in capsys.readouterr().out


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
