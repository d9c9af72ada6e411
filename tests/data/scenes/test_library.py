import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.data.scenes.index import index_folders, read_index
from nest_nerfstudio.data.scenes.library import BoundedCache, SceneLibrary
from tests.data.scenes.many_scenes import write_scene, write_scenes
from tests.data.small_scenes import edit_json, write_image

PICTURE_MEGABYTES = 12 * 8 * 4 / 2**20


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path)


def open_library(scenes: Path, **bounds) -> SceneLibrary:
    return SceneLibrary(read_index(scenes), **bounds)


def stored(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).float() / 255


def counting(made: list[int]) -> Callable[[int], Callable[[], int]]:
    """Makers of values that note what they make."""

    def make(value: int) -> Callable[[], int]:
        return lambda: made.append(value) or value

    return make


# The cache


def test_a_cache_keeps_what_was_used_last() -> None:
    made: list[int] = []
    cache, make = BoundedCache[int](2), counting(made)
    assert [cache.get(key, make(key)) for key in (1, 2, 1, 3, 1, 2)] == [1, 2, 1, 3, 1, 2]
    assert made == [1, 2, 3, 2]  # 3 took the place of 2, and 1 stayed
    assert (len(cache), cache.total) == (2, 2)


def test_a_cache_is_bounded_by_cost() -> None:
    cache = BoundedCache[int](10, cost=int)
    for value in (4, 5, 3, 20, 6):
        assert cache.get(value, lambda value=value: value) == value
        assert cache.total <= 10
    assert (len(cache), cache.total) == (1, 6)


def test_threads_share_a_cache() -> None:
    cache = BoundedCache[int](50)
    with ThreadPoolExecutor(8) as pool:
        keys = np.random.default_rng(0).integers(0, 200, 20_000).tolist()
        assert list(pool.map(lambda key: cache.get(key, lambda: key), keys, chunksize=100)) == keys
    assert len(cache) == cache.total == 50


def test_another_process_starts_with_an_empty_cache() -> None:
    cache = BoundedCache[int](3)
    cache.get(1, lambda: 1)
    sent = pickle.loads(pickle.dumps(BoundedCache(3)))
    assert (len(sent), sent.capacity) == (0, 3)
    with cache._lock:  # a lock that a thread held when the process was forked would be held forever
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            os._exit(cache.get(1, lambda: 7))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert cache.get(1, lambda: 7) == 1


# Pictures and views


def test_views_are_the_files(scenes: Path) -> None:
    library = open_library(scenes)
    scene = library.scene(0)
    frames = [3, 0, 11]
    views = library.views(scene, frames)
    expected = torch.stack([stored(scene.dataset.image_filenames[i]) for i in frames])
    torch.testing.assert_close(views.images, expected[..., :3])  # straight, not over a background
    torch.testing.assert_close(views.alphas, expected[..., 3:])
    cameras = cameras_to_views(scene.dataset.cameras[torch.tensor(frames)])
    torch.testing.assert_close(views.viewmats, cameras.viewmats)
    torch.testing.assert_close(views.Ks, cameras.Ks)
    assert (views.width, views.height) == (12, 8)


def test_no_alpha(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    write_scene(tmp_path / "cow", mode="RGB")
    library = open_library(tmp_path)
    views = library.views(library.scene(0), [0, 1])
    assert views.alphas is None
    assert views.images.shape == (2, 8, 12, 3)
    write_image(tmp_path / "cow" / "train" / "base_01.png", mode="RGBA", seed=5)
    views = open_library(tmp_path).views(library.scene(0), [0, 1])
    assert (views.alphas[0] == 1).all()
    assert (views.alphas[1] < 1).any()


def test_a_mask_is_part_of_the_alpha(scenes: Path) -> None:
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :6] = 255
    Image.fromarray(mask).save(scenes / "cow" / "left.png")
    Image.fromarray(0 * mask).save(scenes / "cow" / "none.png")

    def add_masks(meta: dict) -> None:
        for i, frame in enumerate(meta["frames"]):
            frame["mask_path"] = "none.png" if i == 1 else "left.png"

    for split in ("train", "test"):
        edit_json(scenes / "cow" / f"transforms_{split}.json", add_masks)
    library = open_library(scenes)
    scene = library.scene(0)
    views = library.views(scene, [0])
    expected = stored(scene.dataset.image_filenames[0])[None, ..., 3:]
    torch.testing.assert_close(views.alphas[:, :, :6], expected[:, :, :6])
    assert (views.alphas[:, :, 6:] == 0).all()
    assert [library.picture(scene, i).is_empty for i in (0, 1, 2)] == [False, True, False]
    write_image(scenes / "cow" / "train" / "base_00.png", mode="RGB")
    opaque = open_library(scenes).views(scene, [0]).alphas
    assert torch.equal(opaque[0, ..., 0], torch.from_numpy(mask) / 255)


def test_depths_are_read_in_world_units(scenes: Path) -> None:
    steps = np.arange(96, dtype=np.uint16).reshape(8, 12) * 50
    Image.fromarray(steps).save(scenes / "cow" / "depth.png")

    def add_depths(meta: dict) -> None:
        for frame in meta["frames"]:
            frame["depth_file_path"] = "depth.png"

    assert open_library(scenes).views(open_library(scenes).scene(0), [0]).depths is None
    for split in ("train", "test"):
        edit_json(scenes / "cow" / f"transforms_{split}.json", add_depths)
    for unit in (1e-3, 2e-3):
        library = open_library(scenes)
        depths = library.views(library.scene(0), [0, 11]).depths
        assert depths is not None
        expected = torch.from_numpy(steps.astype(np.float32))[None, ..., None].expand(2, -1, -1, -1) * unit
        torch.testing.assert_close(depths, expected)
        edit_json(
            scenes / "cow" / "transforms_train.json", lambda meta: meta.update(depth_unit_scale_factor=2e-3)
        )


def test_depth_of_some_frames_only_is_refused(scenes: Path) -> None:
    def add_one(meta: dict) -> None:
        meta["frames"][0]["depth_file_path"] = "train/base_00.png"

    edit_json(scenes / "cow" / "transforms_train.json", add_one)
    with pytest.raises(ValueError, match="frames have a depth file; give all or none"):
        open_library(scenes).scene(0)


def test_pictures_of_a_lens_are_undistorted(video: Path) -> None:
    edit_json(video / "transforms.json", lambda meta: meta.update(k1=0.3))
    library = SceneLibrary(index_folders([video], NerfstudioDataParserConfig(downscale_factor=1)))
    scene = library.scene(0)
    views = library.views(scene, [0, 1])
    assert views.images.shape == (2, 8, 12, 3)
    assert not torch.equal(views.images[0], stored(scene.dataset.image_filenames[0]))
    assert (views.Ks[:, [0, 1], [0, 1]] != scene.views.Ks[:2, [0, 1], [0, 1]]).all()


def test_a_damaged_picture_is_named(scenes: Path) -> None:
    path = scenes / "cow" / "train" / "base_01.png"
    path.write_bytes(path.read_bytes()[:-150])
    library = open_library(scenes)
    with pytest.raises(ValueError, match=r"base_01\.png: cannot read the image"):
        library.views(library.scene(0), [1])


def test_a_picture_missing_from_a_parsed_scene_is_named(dnerf: Path) -> None:
    (dnerf / "train" / "r_5.png").unlink()
    library = SceneLibrary(index_folders([dnerf], BlenderDataParserConfig()))
    with pytest.raises(ValueError, match=r"r_5\.png: cannot read the image: no such file"):
        library.views(library.scene(0), [5])


def test_memory_is_bounded_however_many_scenes_there_are(tmp_path: Path) -> None:
    write_scenes(tmp_path, tuple(f"scene_{i}" for i in range(12)))
    library = open_library(tmp_path, cache_megabytes=20 * PICTURE_MEGABYTES, max_scenes=3)
    for number in range(12):
        library.views(library.scene(number), range(16))
        assert library.cached_megabytes <= 20 * PICTURE_MEGABYTES
        assert len(library._scenes) <= 3
    assert len(library._pictures) == 20


def test_a_picture_is_decoded_once(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = open_library(scenes)
    scene = library.scene(0)
    first = library.views(scene, [0, 1])
    monkeypatch.setattr(Image, "open", None)
    torch.testing.assert_close(library.views(scene, [0, 1]).images, first.images)
    with pytest.raises(TypeError):
        library.views(scene, [2])
