from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig

from nest_nerfstudio.data.scenes.index import ScenesIndex, index_folders, read_index
from nest_nerfstudio.data.scenes.reader import read_scene
from tests.data.scenes.many_scenes import write_index


def listed(folder: Path, counts: dict[str, int], holdout: int) -> ScenesIndex:
    """An index of so many scenes of each category, the categories mixed in the list."""
    names = sorted((i, kind) for kind, count in counts.items() for i in range(count))
    write_index(folder, {f"{kind}_{i}": kind for i, kind in names})
    return read_index(folder, holdout)


def names(index: ScenesIndex, split: Any) -> list[str]:
    return [index.entries[i].name for i in index.split(split)]


def test_one_scene_in_five_of_every_category_is_held_out(tmp_path: Path) -> None:
    index = listed(tmp_path, {"fish": 14, "horse": 5, "car": 2}, holdout=5)
    assert names(index, "val") == ["fish_2", "horse_2", "fish_7", "fish_12"]
    assert sorted(index.split("train") + index.split("val")) == list(range(21))


@pytest.mark.parametrize(("holdout", "train", "val"), [(0, 7, 0), (1, 0, 7), (2, 4, 3)])
def test_other_holdouts(tmp_path: Path, holdout: int, train: int, val: int) -> None:
    index = listed(tmp_path, {"fish": 5, "car": 2}, holdout)
    assert (len(index.split("train")), len(index.split("val"))) == (train, val)


def test_scenes_are_held_out_by_parts_of_their_names(tmp_path: Path) -> None:
    index = replace(listed(tmp_path, {"fish": 3, "car": 2}, holdout=2), held_out=("fish_1", "car"))
    assert names(index, "val") == ["car_0", "car_1", "fish_1"]
    with pytest.raises(ValueError, match="no scene has 'bull' in its name"):
        replace(index, held_out=("fish", "bull"))


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


def test_folders_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"two scenes are named cow: .*/a/cow and .*/b/cow"):
        index_folders([tmp_path / "a" / "cow", tmp_path / "b" / "cow"], BlenderDataParserConfig())
