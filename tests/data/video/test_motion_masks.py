"""Masks of what moves before a room that the camera moves through."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from nest_nerfstudio.data.video.motion_masks import (
    camera_stands_still,
    fundamental_matrix,
    sampson_distance,
    write_motion_masks,
)
from tests.small_clips import FOCAL, HEIGHT, WIDTH, along_an_arc, pose, render, texture

SIDE = 44


def write_images(folder: Path, cameras: list[np.ndarray], mover: bool = True) -> list[Path]:
    """The room, and before it a square that moves up and down; its corner in frame i is `corner(i)`."""
    paths = []
    for i, camera in enumerate(cameras):
        image = render(camera)
        if mover:
            x, y = corner(i)
            image[y : y + SIDE, x : x + SIDE] = texture(9)[:SIDE, :SIDE]
        paths.append(folder / f"{i:02d}.png")
        Image.fromarray(image).save(paths[-1])
    return paths


def corner(i: int) -> tuple[int, int]:
    return 90, 30 + 5 * i


def test_what_moves_is_masked_and_the_room_is_not(tmp_path: Path) -> None:
    paths = write_images(tmp_path, along_an_arc(12))
    shares = write_motion_masks(paths, tmp_path / "masks")
    inside, outside = [], []
    for i, path in enumerate(paths):
        moves = np.array(Image.open(tmp_path / "masks" / path.name)) == 0
        assert shares[path.name] == pytest.approx(moves.mean(), abs=0.02)
        x, y = corner(i)
        inside.append(moves[y + 8 : y + SIDE - 8, x + 8 : x + SIDE - 8].mean())
        moves[max(y - 16, 0) : y + SIDE + 16, x - 16 : x + SIDE + 16] = False
        outside.append(moves.mean())
    assert np.median(inside) > 0.95
    assert np.mean(outside) < 0.02


def test_nothing_is_masked_where_nothing_moves(tmp_path: Path) -> None:
    shares = write_motion_masks(write_images(tmp_path, along_an_arc(8), mover=False), tmp_path / "masks")
    assert np.mean(list(shares.values())) < 0.02


def test_images_without_texture_are_not_masked(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        Image.new("RGB", (64, 48), "white").save(path)
    assert max(write_motion_masks(paths, tmp_path / "masks").values()) == 0
    assert not camera_stands_still(paths)


def test_a_tripod_is_told_from_a_hand(tmp_path: Path) -> None:
    for name in ("tripod", "hand", "turn"):
        (tmp_path / name).mkdir()
    assert camera_stands_still(write_images(tmp_path / "tripod", [pose(0, 0, 0)] * 10))
    assert not camera_stands_still(write_images(tmp_path / "hand", along_an_arc(10)))
    turning = [pose(0, 0, 0, yaw) for yaw in np.linspace(0, 0.2, 10)]
    assert not camera_stands_still(write_images(tmp_path / "turn", turning))


def test_epipolar_geometry_of_exact_flow() -> None:
    """Flow of points at random depths under a known motion lies on its lines; a pixel moved off is off."""
    rng = np.random.default_rng(0)
    v, u = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    depth = rng.uniform(2, 6, u.shape)
    rays = np.stack([(u - WIDTH / 2) / FOCAL, (v - HEIGHT / 2) / FOCAL, np.ones_like(u)], -1)
    camera = pose(0.3, 0.1, 0.05, 0.02)
    moved = (rays * depth[..., None]) @ camera[:, :3].T + camera[:, 3]
    flow = np.stack([FOCAL * moved[..., 0] / moved[..., 2] + WIDTH / 2 - u,
                     FOCAL * moved[..., 1] / moved[..., 2] + HEIGHT / 2 - v], -1)  # fmt: skip
    flow[100, 100] += (0, 8)
    F = fundamental_matrix(flow, np.ones(flow.shape[:2], bool))
    assert F is not None
    distance = sampson_distance(flow, F)
    assert np.median(distance) < 1e-3
    assert distance[100, 100] > 3


def test_flow_that_no_geometry_explains_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few pixels, and OpenCV's failure on pixels that have nothing in common."""
    flow = np.random.default_rng(0).uniform(-50, 50, (HEIGHT, WIDTH, 2))
    assert fundamental_matrix(flow, np.zeros((HEIGHT, WIDTH), bool)) is None

    def fails(*_: object) -> None:
        raise cv2.error("!model.empty()")

    monkeypatch.setattr(cv2, "findFundamentalMat", fails)
    assert fundamental_matrix(flow, np.ones((HEIGHT, WIDTH), bool)) is None
