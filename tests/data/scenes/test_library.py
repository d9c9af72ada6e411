from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.data.lenses import Lens
from nest_nerfstudio.data.scenes.index import index_folders, read_index
from nest_nerfstudio.data.scenes.library import SceneLibrary
from tests.data.scenes.many_scenes import write_scene, write_scenes
from tests.data.small_scenes import edit_json, write_image

IMAGE_MEGABYTES = 12 * 8 * 4 / 2**20


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path)


def open_library(scenes: Path, **bounds) -> SceneLibrary:
    return SceneLibrary(read_index(scenes), **bounds)


def stored(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).float() / 255


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


def test_masks_are_kept_beside_alpha_and_stand_for_it_where_there_is_none(scenes: Path) -> None:
    mask = np.zeros((8, 12), np.uint8)
    mask[:, :6] = 255
    Image.fromarray(mask).save(scenes / "cow" / "left.png")
    Image.fromarray(0 * mask).save(scenes / "cow" / "none.png")

    def add_masks(meta: dict) -> None:
        for i, frame in enumerate(meta["frames"]):
            if i != 3:
                frame["mask_path"] = "none.png" if i == 1 else "left.png"

    for split in ("train", "test"):
        edit_json(scenes / "cow" / f"transforms_{split}.json", add_masks)
    library = open_library(scenes)
    scene = library.scene(0)
    views = library.views(scene, [0, 3])
    expected = stored(scene.dataset.image_filenames[0])[None, ..., 3:]
    torch.testing.assert_close(views.alphas[:1], expected)
    assert torch.equal(views.masks[0, ..., 0], torch.from_numpy(mask) / 255)
    assert (views.masks[1] == 1).all()
    assert library.views(scene, [3]).masks is None
    assert [library.image(scene, i).is_empty for i in (0, 1, 2)] == [False, True, False]
    write_image(scenes / "cow" / "train" / "base_00.png", mode="RGB")
    opaque = open_library(scenes).views(scene, [0])
    assert torch.equal(opaque.alphas[0, ..., 0], torch.from_numpy(mask) / 255)
    assert opaque.masks is None


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


def test_depth_of_some_frames_only_is_unknown_for_the_others(scenes: Path) -> None:
    def add_one(meta: dict) -> None:
        meta["frames"][0]["depth_file_path"] = "depth.npy"

    library = open_library(scenes)
    size = library.scene(1).dataset.sizes[0]
    np.save(scenes / "cow" / "depth.npy", np.full(size[::-1], 2000, np.uint16))
    edit_json(scenes / "cow" / "transforms_train.json", add_one)
    depths = library.views(library.scene(0), [0, 1]).depths
    assert depths is not None
    assert [float(depth.mean()) for depth in depths] == [2, 0]
    assert library.views(library.scene(0), [1, 2]).depths is None


def test_images_of_a_lens_are_undistorted(video: Path) -> None:
    edit_json(video / "transforms.json", lambda meta: meta.update(k1=0.3))
    library = SceneLibrary(index_folders([video], NerfstudioDataParserConfig(downscale_factor=1)))
    scene = library.scene(0)
    views = library.views(scene, [0, 1])
    assert views.images.shape == (2, 8, 12, 3)
    assert not torch.equal(views.images[0], stored(scene.dataset.image_filenames[0]))
    assert torch.equal(views.Ks, scene.views.Ks[:2])
    assert (views.Ks[:, [0, 1], [0, 1]] != scene.dataset._dataparser_outputs.cameras.fx[:2]).all()


@pytest.mark.parametrize("masked", [False, True])
def test_what_a_lens_does_not_show_is_masked_and_no_silhouette(
    video: Path, monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    inside = np.ones((8, 12), bool)
    inside[:2] = False
    monkeypatch.setattr(Lens, "inside", property(lambda lens: inside))
    Image.new("L", (12, 8), "white").save(video / "mask.png")
    edit_json(video / "transforms.json", lambda meta: meta.update(k1=0.3))
    if masked:
        edit_json(
            video / "transforms.json",
            lambda meta: [frame.update(mask_path="mask.png") for frame in meta["frames"]],
        )
    library = SceneLibrary(index_folders([video], NerfstudioDataParserConfig(downscale_factor=1)))
    views = library.views(library.scene(0), [0, 1])
    assert (views.alphas is not None) == masked
    assert views.masks is not None
    assert torch.equal(views.masks[0, ..., 0] > 0.5, torch.from_numpy(inside))


def test_a_damaged_image_is_named(scenes: Path) -> None:
    path = scenes / "cow" / "train" / "base_01.png"
    path.write_bytes(path.read_bytes()[:-150])
    library = open_library(scenes)
    with pytest.raises(ValueError, match=r"base_01\.png: cannot read the image"):
        library.views(library.scene(0), [1])


def test_an_image_missing_from_a_parsed_scene_is_named(dnerf: Path) -> None:
    (dnerf / "train" / "r_5.png").unlink()
    library = SceneLibrary(index_folders([dnerf], BlenderDataParserConfig()))
    with pytest.raises(ValueError, match=r"r_5\.png: cannot read the image: no such file"):
        library.views(library.scene(0), [5])


def test_memory_is_bounded_however_many_scenes_there_are(tmp_path: Path) -> None:
    write_scenes(tmp_path, tuple(f"scene_{i}" for i in range(12)))
    library = open_library(tmp_path, cache_megabytes=20 * IMAGE_MEGABYTES, max_scenes=3)
    for number in range(12):
        library.views(library.scene(number), range(16))
        assert library.cached_megabytes <= 20 * IMAGE_MEGABYTES
        assert library.num_cached_scenes <= 3
    assert library.cached_megabytes == pytest.approx(20 * IMAGE_MEGABYTES)


def test_an_image_is_decoded_once(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = open_library(scenes)
    scene = library.scene(0)
    first = library.views(scene, [0, 1])

    def fail(path: Path) -> None:
        raise RuntimeError(f"opens {path}")

    monkeypatch.setattr(Image, "open", fail)
    torch.testing.assert_close(library.views(scene, [0, 1]).images, first.images)
    with pytest.raises(RuntimeError, match=r"opens .*base_03\.png"):
        library.views(scene, [2])
