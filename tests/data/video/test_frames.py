"""Frames and times of clips: files of every kind that phones and programs write, and what is none."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nest_nerfstudio.data.video.frames import interval_starts, open_clip, sharpest, sharpness, write_frames
from tests.small_clips import along_an_arc, render, write_video

IMAGES = [render(camera) for camera in along_an_arc(12)]


def test_times_are_those_of_the_file(tmp_path: Path) -> None:
    """Of a variable frame rate, as phones write it."""
    stamps = [0, 10, 40, 50, 90, 130, 131, 150, 170, 260, 300, 330]
    clip = open_clip(write_video(tmp_path / "clip.mkv", IMAGES, stamps))
    times = write_frames(clip, tmp_path / "images", 100, 1600)
    np.testing.assert_allclose(list(times.values()), np.array(stamps) / 1000)
    assert clip.notes == []
    for image, name in zip(IMAGES, times, strict=True):
        assert np.abs(np.array(Image.open(tmp_path / "images" / name)) - image.astype(int)).mean() < 6


def test_of_each_interval_the_sharpest_frame_is_taken(tmp_path: Path) -> None:
    blurred = [image if i % 3 == 1 else cv2.GaussianBlur(image, (0, 0), 3) for i, image in enumerate(IMAGES)]
    clip = open_clip(write_video(tmp_path / "clip.mp4", blurred * 4))
    times = write_frames(clip, tmp_path / "images", 16, 1600)
    assert len(times) == 16
    np.testing.assert_allclose(list(times.values()), (np.arange(16) * 3 + 1) / 30, atol=1e-3)


def test_empty_intervals_give_no_frame() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    frames = [(time, image) for time in (0.0, 0.1, 5.0, 5.1, 10.0)]
    starts = interval_starts([time for time, _ in frames], 4)
    assert [time for time, _ in sharpest(frames, starts)] == [0.0, 5.0, 10.0]


def test_sharpness_falls_with_blur() -> None:
    levels = [sharpness(cv2.GaussianBlur(IMAGES[0], (0, 0), sigma)) for sigma in (0.5, 1, 2, 4)]
    assert levels == sorted(levels, reverse=True)


def test_a_repeated_time_stamp_counts_once_and_is_said(tmp_path: Path) -> None:
    stamps = [0, 10, 20, 20, 40, 50, 60, 70, 80, 90, 100, 110]
    clip = open_clip(write_video(tmp_path / "clip.mkv", IMAGES, stamps))
    times = write_frames(clip, tmp_path / "images", 100, 1600)
    assert sorted({*stamps}) == [round(1000 * time) for time in times.values()]
    assert clip.notes[0].startswith("1 of 12 frames have the time stamp of another one")


def test_a_portrait_clip_is_turned_as_its_metadata_says(tmp_path: Path) -> None:
    clip = open_clip(write_video(tmp_path / "clip.mp4", IMAGES, quarter_turn=True))
    _, image = next(clip.read(1600))
    assert np.abs(image - np.rot90(IMAGES[0], -1).astype(int)).mean() < 6


def test_large_frames_are_shrunk(tmp_path: Path) -> None:
    clip = open_clip(write_video(tmp_path / "clip.mp4", IMAGES))
    assert {image.shape for _, image in clip.read(120)} == {(90, 120, 3)}


def test_damaged_frames_are_left_out_and_said(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", IMAGES)
    data = bytearray(path.read_bytes())
    for start in (len(data) // 3, 2 * len(data) // 3):
        frame = data.index(b"\xff\xd8\xff", start)  # the start of a JPEG
        data[frame : frame + 2000] = bytes(2000)
    path.write_bytes(data)
    clip = open_clip(path)
    assert len(list(clip.read(1600))) == 10
    assert clip.notes == ["2 frames of the file are damaged: they are left out."]


def test_a_clip_that_is_cut_off_has_the_frames_that_are_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", IMAGES * 2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert 10 <= len(list(open_clip(path).read(1600))) < 24


@pytest.mark.parametrize("content", [b"", b"no video", b"\0" * 5000])
def test_what_is_no_video_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"clip\.mp4 is no video that FFmpeg reads"):
        open_clip(path)


def test_a_short_clip_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 9 frames of different times; 10 or more"):
        open_clip(write_video(tmp_path / "clip.mp4", IMAGES[:9]))
    with pytest.raises(FileNotFoundError, match=r"none\.mp4 does not exist"):
        open_clip(tmp_path / "none.mp4")


# Folders of images


def test_a_folder_of_images_is_a_clip(tmp_path: Path) -> None:
    """In the order in which people count; 16 bits, alpha and EXIF orientation are brought to one form."""
    upright = [Image.fromarray(image).resize((24, 32)) for image in IMAGES]
    for i, image in enumerate(upright):
        image.save(tmp_path / f"{i}.png")
    Image.fromarray(np.full((32, 24), 40000, np.uint16)).save(tmp_path / "2.png")
    clear = Image.new("RGBA", (24, 32), (0, 0, 0, 0))
    clear.save(tmp_path / "3.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "4.png").unlink()
    upright[4].transpose(Image.Transpose.ROTATE_90).save(tmp_path / "4.jpg", exif=exif, quality=95)
    clip = open_clip(tmp_path)
    read = [image for _, image in clip.read(1600)]
    assert clip.times == list(range(12))
    assert (read[2] == round(40000 * 255 / 65535)).all()
    assert (read[3] == 255).all()
    assert np.abs(read[4] - np.asarray(upright[4]).astype(int)).mean() < 10
    np.testing.assert_array_equal(read[10], np.asarray(upright[10]))


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"IMG_{i}.HEIC").write_bytes(b"0000ftypheic")
    with pytest.raises(ValueError, match=r"holds no images: 12 files .* \(IMG_0\.HEIC, .*save them as PNG"):
        open_clip(tmp_path)
    for i in range(10):
        Image.new("RGB", (8, 8 + i // 9)).save(tmp_path / f"{i}.png")
    clip = open_clip(tmp_path)
    assert clip.notes[0].startswith("12 files are of no format that Pillow reads")
    with pytest.raises(ValueError, match=r"9\.png is 8×9 pixels, but 0\.png is 8×8"):
        list(clip.read(1600))
