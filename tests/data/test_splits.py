import json
from pathlib import Path
from typing import Any

import pytest

from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig, read_capture
from tests.data.small_scenes import edit_json, parse, times


def test_frame_order_follows_the_file_names(video: Path) -> None:
    outputs = parse(video, time_from="frame-order", eval_interval=0)
    for path, time in zip(outputs.image_filenames, times(outputs), strict=True):
        assert time == pytest.approx((int(path.stem.removeprefix("frame_")) - 1) / 19)


def test_frame_order_counts_numbers(video: Path) -> None:
    def rename(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            short = f"images/r_{frame['colmap_im_id']}.png"
            (video / frame["file_path"]).rename(video / short)
            frame["file_path"] = short

    edit_json(video / "transforms.json", rename)
    outputs = parse(video, time_from="frame-order", eval_interval=0)
    by_name = {path.stem: time for path, time in zip(outputs.image_filenames, times(outputs), strict=True)}
    assert by_name["r_2"] < by_name["r_10"]


def test_times_of_all_splits_share_one_map(dnerf: Path) -> None:
    def seconds(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["time"] = 10 + 4 * frame["time"]

    before = {split: times(parse(dnerf, split)) for split in ("train", "val", "future")}
    for split in ("train", "val", "test", "future"):
        edit_json(dnerf / f"transforms_{split}.json", seconds)
    for split, expected in before.items():
        assert times(parse(dnerf, split)) == pytest.approx(expected)
    assert times(parse(dnerf, "future", time_scale="none")) == pytest.approx(
        [10 + 4 * t for t in before["future"]]
    )


def test_a_part_of_a_clip_whose_times_are_kept_as_stored(dnerf: Path) -> None:
    for split in ("train", "val", "test", "future"):
        edit_json(
            dnerf / f"transforms_{split}.json",
            lambda meta: [frame.update(time=100 + 19 * frame["time"]) for frame in meta["frames"]],
        )
    with pytest.raises(ValueError, match=r"0 of 12 .*times are 100 to 119, as --time-scale none leaves them"):
        parse(dnerf, time_scale="none", train_span=(0.0, 0.5))
    assert len(parse(dnerf, train_span=(0.0, 0.5)).image_filenames) == 6


@pytest.mark.parametrize(
    ("first", "last"), [(0.0, 0.05), (0.2, 0.9), (0.0, 0.99), (-1.0, 1.0), (1.7e9, 1.7e9 + 9)]
)
def test_the_clip_spans_the_unit_interval_whatever_its_unit(dnerf: Path, first: float, last: float) -> None:
    before = {split: times(parse(dnerf, split)) for split in ("train", "val", "future")}

    def stamp(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["time"] = first + (last - first) * frame["time"]

    for split in ("train", "val", "test", "future"):
        edit_json(dnerf / f"transforms_{split}.json", stamp)
    after = {split: times(parse(dnerf, split)) for split in before}
    assert (min(after["train"]), max(after["train"])) == (0, 1)
    for split, expected in before.items():
        assert after[split] == pytest.approx(expected, abs=1e-6)
    kept = times(parse(dnerf, "train", time_scale="none"))
    assert kept == pytest.approx([first + (last - first) * t for t in before["train"]])


def test_times_that_span_the_unit_interval_are_not_touched(dnerf: Path) -> None:
    stored = [frame["time"] for frame in json.loads((dnerf / "transforms_val.json").read_text())["frames"]]
    capture = read_capture(NestDynamicDataParserConfig(data=dnerf))
    assert [frame.time for frame in capture.splits["val"]] == stored


def test_a_part_of_the_clip_becomes_the_clip(dnerf: Path) -> None:
    before = times(parse(dnerf))
    kept = sorted(t for t in before if t <= 0.5)[::2]
    assert len(kept) >= 3
    part = {"train_interval": 2, "train_span": (0.0, 0.5)}
    assert times(parse(dnerf, **part)) == pytest.approx([2 * t for t in kept])
    assert times(parse(dnerf, "future", **part)) == pytest.approx([2.5, 3.25, 4.0])
    assert times(parse(dnerf, "future", train_interval=2)) == [1.25, 1.625, 2.0]
    assert times(parse(dnerf, "left_out", **part)) == pytest.approx([2 * t for t in before if t not in kept])
    with pytest.raises(ValueError, match="no split 'left_out'"):
        parse(dnerf, "left_out")


@pytest.mark.parametrize(
    "part", [{"train_interval": 0}, {"train_span": (0.5, 0.5)}, {"train_span": (0.0, 1.5)}]
)
def test_a_part_that_is_none_is_refused(dnerf: Path, part: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not a part of the clip"):
        parse(dnerf, **part)


def test_a_part_without_motion_is_refused(dnerf: Path) -> None:
    with pytest.raises(ValueError, match="1 of 12 train frames are in the part"):
        parse(dnerf, train_span=(0.0, 0.01))


@pytest.mark.parametrize("interval", [2, 4, 8])
def test_holds_frames_out_where_there_is_no_eval_split(dnerf: Path, interval: int) -> None:
    for split in ("val", "test"):
        (dnerf / f"transforms_{split}.json").unlink()
    train, held = (parse(dnerf, split, eval_interval=interval) for split in ("train", "val"))
    assert not set(train.image_filenames) & set(held.image_filenames)
    assert len(train.image_filenames) + len(held.image_filenames) == 12
    assert abs(len(held.image_filenames) - 12 / interval) <= 1
    assert min(times(train)) == 0
    assert max(times(train)) == 1


def test_holds_nothing_out_on_request(dnerf: Path) -> None:
    for split in ("val", "test"):
        (dnerf / f"transforms_{split}.json").unlink()
    assert times(parse(dnerf, "val", eval_interval=0)) == times(parse(dnerf, eval_interval=0))
    assert len(parse(dnerf, "train", eval_split="future").image_filenames) == 12


def test_splits_listed_in_the_file(video: Path) -> None:
    def lists(meta: dict[str, Any]) -> None:
        names = sorted(frame["file_path"] for frame in meta["frames"])
        meta.update(train_filenames=names[:12], val_filenames=names[12:15], late_filenames=names[15:])

    edit_json(video / "transforms.json", lists)
    splits = {s: parse(video, s, time_from="frame-order") for s in ("train", "val", "test", "late")}
    assert [len(s.image_filenames) for s in splits.values()] == [12, 3, 3, 5]
    assert len(parse(video, "val", time_from="frame-order", eval_split="late").image_filenames) == 5


def test_bad_split_lists(video: Path) -> None:
    edit_json(video / "transforms.json", lambda meta: meta.update(val_filenames=["images/frame_00001.png"]))
    with pytest.raises(ValueError, match="lists val, but has no `train_filenames`"):
        parse(video, time_from="frame-order")
    edit_json(video / "transforms.json", lambda meta: meta.update(train_filenames=["images/gone.png"]))
    with pytest.raises(ValueError, match=r"lists images/gone\.png in the split train"):
        parse(video, time_from="frame-order")


def test_frame_order_needs_one_file(dnerf: Path) -> None:
    with pytest.raises(ValueError, match="needs all frames in one file"):
        parse(dnerf, time_from="frame-order")


def test_video_without_times_says_what_to_do(video: Path) -> None:
    with pytest.raises(ValueError, match="nest-dynamic-data --time-from frame-order"):
        parse(video)
