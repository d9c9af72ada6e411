"""Files that transforms files name: written on Windows, with other encodings, or missing."""

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nest_nerfstudio.data.check import check_dataset
from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig, read_capture
from nest_nerfstudio.data.scenes.index import read_index
from nest_nerfstudio.data.transforms import local_path, plain_name
from nest_nerfstudio.edits.scene_edit import SceneEdit
from tests.data.small_scenes import edit_json, parse, times, write_image
from tests.data.test_coordinates import POINTS, write_points

Change = Callable[[dict[str, Any]], object]


def test_backslashes_part_folders(dnerf: Path) -> None:
    plain = parse(dnerf).image_filenames

    def windows(meta: dict[str, Any]) -> None:
        for i, frame in enumerate(meta["frames"]):
            write_image(dnerf / "masks" / f"{i}.png", mode="L", seed=i)
            frame["file_path"] = f".\\train\\r_{i}"
            frame["mask_path"] = f"masks\\{i}.png"
            frame["depth_file_path"] = f".\\masks\\{i}.png"
        meta["ply_file_path"] = "clouds\\points.ply"

    (dnerf / "clouds").mkdir()
    write_points(dnerf / "clouds", POINTS)
    edit_json(dnerf / "transforms_train.json", windows)
    outputs = parse(dnerf)
    assert outputs.image_filenames == plain
    assert outputs.mask_filenames == [dnerf / "masks" / f"{i}.png" for i in range(12)]
    assert outputs.metadata["depth_filenames"] == outputs.mask_filenames
    assert len(outputs.metadata["points3D_xyz"]) == len(POINTS)
    assert check_dataset(dnerf).problems == []


def test_split_lists_name_files_in_either_way(video: Path) -> None:
    def lists(meta: dict[str, Any]) -> None:
        names = sorted(frame["file_path"] for frame in meta["frames"])
        meta["train_filenames"] = [name.replace("/", "\\") for name in names[:15]]
        meta["val_filenames"] = [f"./{name}" for name in names[15:]]

    edit_json(video / "transforms.json", lists)
    assert len(parse(video, "val", time_from="frame-order").image_filenames) == 5
    assert check_dataset(video).problems == []


def test_a_name_with_a_backslash_is_found_where_it_exists(tmp_path: Path) -> None:
    (tmp_path / "a\\b.png").touch()
    assert local_path(tmp_path, "a\\b.png") == tmp_path / "a\\b.png"
    assert local_path(tmp_path, "a\\c.png") == tmp_path / "a" / "c.png"
    assert plain_name(".\\a\\c.png") == plain_name("a/./c.png") == "a/c.png"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-8"])
def test_json_of_any_unicode_encoding(dnerf: Path, encoding: str) -> None:
    for path in dnerf.glob("transforms_*.json"):
        path.write_bytes(path.read_text().encode(encoding))
    assert len(parse(dnerf).image_filenames) == 12
    assert check_dataset(dnerf).problems == []


def test_json_of_no_unicode_encoding(dnerf: Path) -> None:
    path = dnerf / "transforms_train.json"
    path.write_bytes(path.read_text().replace("r_3", "é").encode("latin-1"))
    with pytest.raises(ValueError, match=r"transforms_train\.json: not in UTF-8: .*; save it as UTF-8"):
        parse(dnerf)


def test_a_mark_in_a_list_of_scenes_and_in_an_edit(tmp_path: Path) -> None:
    (tmp_path / "scenes.json").write_bytes(codecs.BOM_UTF8 + b'{"scenes": [{"name": "cars\\\\a"}]}')
    (tmp_path / "cars" / "a").mkdir(parents=True)
    assert read_index(tmp_path).entries[0].folder == tmp_path / "cars" / "a"
    (tmp_path / "edit.json").write_bytes(codecs.BOM_UTF8 + b'{"version": 1, "steps": []}')
    assert SceneEdit.load(tmp_path / "edit.json") == SceneEdit(())


# Missing files


def lose(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def test_missing_images_are_skipped_on_request_only(dnerf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = times(parse(dnerf))
    lose(dnerf, "train/r_3.png", "train/r_7.png", "val/r_1.png")
    advice = "`nest-dynamic-data --skip-missing` leaves out the 2 of 12 frames whose image is missing"
    with pytest.raises(FileNotFoundError, match=rf"2 of 12 files are missing: .*r_3\.png.*; {advice}"):
        parse(dnerf)
    report = check_dataset(dnerf)
    assert len(report.problems) == 3
    assert f"{dnerf / 'transforms_train.json'}: {advice}" in report.notes
    assert times(parse(dnerf, skip_missing=True)) == [t for i, t in enumerate(before) if i not in (3, 7)]
    assert len(parse(dnerf, "val", skip_missing=True).image_filenames) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "Skipping 2 of 12 frames of transforms_train.json" in said
    assert "Skipping 1 of 3 frames of transforms_val.json" in said


def test_missing_ends_of_the_clip(dnerf: Path) -> None:
    lose(dnerf, "train/r_0.png", "train/r_11.png")
    found = times(parse(dnerf, skip_missing=True))
    assert (min(found), max(found)) == (0, 1)


def test_frames_keep_their_place_in_the_order_when_some_are_missing(video: Path) -> None:
    lose(video, *(f"images/frame_{i:05d}.png" for i in range(5, 15)))
    outputs = parse(video, time_from="frame-order", skip_missing=True, eval_interval=0)
    by_name = dict(zip([p.stem for p in outputs.image_filenames], times(outputs), strict=True))
    assert by_name["frame_00004"] == pytest.approx(3 / 19)
    assert by_name["frame_00015"] == pytest.approx(14 / 19)


def test_skipped_frames_in_split_lists_and_their_poses_do_not_count(video: Path) -> None:
    def lists(meta: dict[str, Any]) -> None:
        names = sorted(frame["file_path"] for frame in meta["frames"])
        meta.update(train_filenames=names[:15], val_filenames=names[15:])
        for frame in meta["frames"]:
            if frame["file_path"] in (names[2], names[16]):
                (video / frame["file_path"]).unlink()
                frame["transform_matrix"][0][3] = 1e6

    edit_json(video / "transforms.json", lists)
    config = NestDynamicDataParserConfig(data=video, time_from="frame-order", skip_missing=True)
    capture = read_capture(config)
    assert [len(capture.splits[split]) for split in ("train", "val")] == [14, 4]
    poses = parse(video, time_from="frame-order", skip_missing=True).cameras.camera_to_worlds
    assert float(poses[..., 3].abs().max()) > 0.5


def test_a_split_without_images_is_left_out(dnerf: Path) -> None:
    lose(dnerf, *(f"val/r_{i}.png" for i in range(3)))
    assert len(parse(dnerf, "val", skip_missing=True).image_filenames) == 2  # of test
    lose(dnerf, *(f"train/r_{i}.png" for i in range(12)))
    with pytest.raises(FileNotFoundError, match=r"transforms_train\.json: all images of the train split"):
        parse(dnerf, skip_missing=True)
    with pytest.raises(FileNotFoundError, match=r"12 of 12 files are missing: .* and 7 more$"):
        parse(dnerf)


def test_a_missing_mask_is_not_skipped(dnerf: Path) -> None:
    edit_json(dnerf / "transforms_train.json", lambda meta: meta["frames"][2].update(mask_path="gone.png"))
    with pytest.raises(FileNotFoundError, match=r"1 of 13 files are missing: .*gone\.png$"):
        parse(dnerf, skip_missing=True)
