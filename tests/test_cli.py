"""Every nerfstudio tool on one run, as a user calls them: offline, on the CPU.

The commands take some ten seconds each to import, so one of each kind runs as a process of its own, and the
others through the entry point of the same command in this one.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tyro
from nerfstudio.scripts.eval import ComputePSNR
from nerfstudio.scripts.render import Commands
from PIL import Image
from plyfile import PlyData

from tests.small_capture import SIZE, orbit, write_capture

pytestmark = pytest.mark.slow
needs_ffmpeg = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="nerfstudio's ns-render asks for the program ffmpeg"
)
ONE_LEVEL = 1 / 255
MARGIN = 4.0
"""dB by which renderings are nearer to the images than a white image is."""


def call(tool: str, *arguments: str | Path) -> str:
    """Run a command of this environment, without GPU, network or cached weights; returns what it printed."""
    nowhere = "http://127.0.0.1:9"
    environment = {"CUDA_VISIBLE_DEVICES": "", "http_proxy": nowhere, "https_proxy": nowhere}
    command = [str(Path(sys.executable).with_name(tool)), *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough views at every time for the hull of the first ones to hold the ball that moves."""
    return write_capture(tmp_path_factory.mktemp("capture"), {"train": 60, "val": 3, "test": 4, "future": 3})


@pytest.fixture(scope="session")
def run(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`config.yml` of a run that `ns-train` has made."""
    output = tmp_path_factory.mktemp("cli")
    call(
        *("ns-train", "nest-dynamic", "--data", capture, "--output-dir", output),
        *("--experiment-name", "x", "--timestamp", "run", "--vis", "tensorboard"),
        *("--viewer.quit-on-train-completion", "True", "--max-num-iterations", "800"),
        *("--pipeline.model.num-random", "150", "--pipeline.model.max-gs-num", "200"),
        *("--pipeline.model.num-tokens", "12", "--pipeline.model.sh-degree", "1"),
    )
    return output / "x" / "nest-dynamic" / "run" / "config.yml"


def render(run: Path, kind: str, output: Path, *options: str | Path) -> None:
    """`ns-render`, in this process."""
    arguments = [kind, "--load-config", run, "--output-path", output, *options]
    tyro.cli(Commands, args=[str(argument) for argument in arguments]).main()


def images(folder: Path) -> np.ndarray:
    """All PNGs of a folder in order, [n, h, w, c] in [0, 1]."""
    paths = sorted(folder.glob("*.png"))
    assert paths, f"no images in {folder}"
    return np.stack([np.asarray(Image.open(path)) / 255 for path in paths])


def steps(frames: np.ndarray) -> np.ndarray:
    """Largest change of a pixel from each frame to the next."""
    return np.abs(np.diff(frames, axis=0)).max(axis=(1, 2, 3))


def background_psnr(capture: Path) -> float:
    """Score of images that show nothing, dB; the test images are shown over white."""
    rgba = images(capture / "test")
    return float(-10 * np.log10(np.square((1 - rgba[..., :3]) * rgba[..., 3:]).mean()))


def write_camera_path(path: Path, times: list[float | None], kind: str = "perspective") -> Path:
    """A camera path as the viewer writes it, of a camera that stands still."""
    camera = {"camera_to_world": orbit(0.35).flatten().tolist(), "fov": 40.0, "aspect": 1.0}
    frames = [camera if time is None else {**camera, "render_time": time} for time in times]
    size = {"render_height": SIZE, "render_width": SIZE}
    path.write_text(json.dumps({"camera_type": kind, "seconds": 1.0, "camera_path": frames, **size}))
    return path


def test_train_leaves_a_run(run: Path) -> None:
    names = {path.name for path in run.parent.iterdir()}
    assert {"config.yml", "dataparser_transforms.json", "nerfstudio_models"} <= names
    assert [path.name for path in (run.parent / "nerfstudio_models").iterdir()] == ["step-000000799.ckpt"]


def test_eval(run: Path, capture: Path, tmp_path: Path) -> None:
    printed = call("ns-eval", "--load-config", run, "--output-path", tmp_path / "scores.json")
    results = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert results["psnr"] > background_psnr(capture) + MARGIN
    assert 0.8 < results["ssim"] <= 1
    assert "lpips" in results or "LPIPS is left out" in " ".join(printed.split())


def test_eval_saves_images(run: Path, tmp_path: Path) -> None:
    options = ["--output-path", tmp_path / "scores.json", "--render-output-path", tmp_path / "shown"]
    arguments = [str(option) for option in ("--load-config", run, *options)]
    tyro.cli(ComputePSNR, args=arguments).main()
    assert len([path for path in (tmp_path / "shown").iterdir() if "img" in path.name]) == 4


def test_render_dataset(run: Path, capture: Path, tmp_path: Path) -> None:
    render(run, "dataset", tmp_path, "--split", "test", "--image-format", "png")
    for name in ("rgb", "gt-rgb", "depth", "accumulation", "motion"):
        assert images(tmp_path / "test" / name).shape == (4, SIZE, SIZE, 3)
    error = images(tmp_path / "test" / "rgb") - images(tmp_path / "test" / "gt-rgb")
    assert -10 * np.log10(np.square(error).mean()) > background_psnr(capture) + MARGIN


def test_render_train_and_test_with_alpha(run: Path, tmp_path: Path) -> None:
    render(
        *(run, "dataset", tmp_path, "--split", "train+test", "--image-format", "png"),
        *("--rendered-output-names", "rgba", "raw-depth"),
    )
    frames = images(tmp_path / "train" / "rgba")
    assert frames.shape == (60, SIZE, SIZE, 4)
    assert frames[..., 3].min() == 0
    assert frames[..., 3].max() > 0.9
    assert len(list((tmp_path / "test" / "raw-depth").glob("*.npy.gz"))) == 4


def test_render_dataset_beyond_the_clip(run: Path, capture: Path, tmp_path: Path) -> None:
    future = capture / "transforms_future.json"
    render(run, "dataset", tmp_path, "--data", future, "--split", "test", "--image-format", "png")
    assert images(tmp_path / "test" / "rgb").shape == (3, SIZE, SIZE, 3)
    seen = [np.asarray(Image.open(p).convert("RGBA")) / 255 for p in sorted((capture / "future").iterdir())]
    over_white = [image[..., :3] * image[..., 3:] + 1 - image[..., 3:] for image in seen]
    np.testing.assert_allclose(images(tmp_path / "test" / "gt-rgb"), over_white, atol=1.1 * ONE_LEVEL)


@needs_ffmpeg
def test_render_camera_path_at_given_times(run: Path, tmp_path: Path) -> None:
    """A camera that stands still sees the scene move, in the clip and beyond; equal times look equal."""
    times = [0.25 * i for i in range(9)]
    path = write_camera_path(tmp_path / "path.json", [*times, 0.25])
    options = ("--camera-path-filename", path, "--output-format", "images", "--image-format", "png")
    render(run, "camera-path", tmp_path / "frames", *options)
    frames = images(tmp_path / "frames")
    assert frames.shape == (10, SIZE, SIZE, 3)
    assert (steps(frames[:5]) > 5 * ONE_LEVEL).all()
    assert steps(frames[4:9]).max() > 5 * ONE_LEVEL
    assert np.array_equal(frames[1], frames[9])


@needs_ffmpeg
def test_render_camera_path_without_times_plays_the_clip(run: Path, tmp_path: Path) -> None:
    path = write_camera_path(tmp_path / "path.json", [None] * 25)
    options = ("--camera-path-filename", path, "--output-format", "images", "--image-format", "png")
    render(run, "camera-path", tmp_path / "frames", *options)
    frames = images(tmp_path / "frames")
    assert len(frames) == 25
    assert (steps(frames[::8]) > 5 * ONE_LEVEL).all()


@needs_ffmpeg
def test_render_camera_paths_through_a_lens(run: Path, tmp_path: Path) -> None:
    """As of a fisheye or panorama, not of a pinhole; what has no single centre is refused by name."""
    seen = {}
    for kind in ("perspective", "fisheye", "equirectangular"):
        path = write_camera_path(tmp_path / "path.json", [0.5], kind)
        options = ("--camera-path-filename", path, "--output-format", "images", "--image-format", "png")
        render(run, "camera-path", tmp_path / kind, *options)
        seen[kind] = images(tmp_path / kind)[0]
    covered = {kind: int((image.min(-1) < 0.9).sum()) for kind, image in seen.items()}
    assert np.abs(seen["fisheye"] - seen["perspective"]).max() > 10 * ONE_LEVEL
    assert 0.8 < covered["fisheye"] / covered["perspective"] < 1.2
    assert 0 < covered["equirectangular"] < 0.3 * covered["perspective"]
    path = write_camera_path(tmp_path / "path.json", [0.5], "omnidirectional")
    options = ("--camera-path-filename", path, "--output-format", "images", "--image-format", "png")
    with pytest.raises(ValueError, match="OMNIDIRECTIONALSTEREO_L"):
        render(run, "camera-path", tmp_path / "stereo", *options)


@needs_ffmpeg
def test_render_camera_path_as_a_video(run: Path, tmp_path: Path) -> None:
    path = write_camera_path(tmp_path / "path.json", [0.1 * i for i in range(12)])
    video = tmp_path / "out.mp4"
    call(
        *("ns-render", "camera-path", "--load-config", run, "--camera-path-filename", path),
        *("--output-path", video, "--rendered-output-names", "rgb", "depth", "motion"),
    )
    assert b"ftyp" in video.read_bytes()[:12]
    command = ["ffmpeg", "-i", str(video), str(tmp_path / "%03d.png")]
    subprocess.run(command, check=True, capture_output=True)
    frames = images(tmp_path)
    assert frames.shape == (12, SIZE, 3 * SIZE, 3)
    assert steps(frames).max() > 5 * ONE_LEVEL


@needs_ffmpeg
@pytest.mark.parametrize("source", ["eval", "train"])
def test_render_interpolate(run: Path, tmp_path: Path, source: str) -> None:
    """Where one stretch ends and the next begins nerfstudio's camera stands still; only time runs there."""
    options = ("--pose-source", source, "--interpolation-steps", "3", "--output-format", "images")
    render(run, "interpolate", tmp_path / "frames", *options, "--image-format", "png")
    frames = images(tmp_path / "frames")
    assert len(frames) == 3 * (4 - 1 if source == "eval" else 60 - 1)
    assert steps(frames)[2::3].max() > 5 * ONE_LEVEL


@needs_ffmpeg
def test_render_spiral(run: Path, tmp_path: Path) -> None:
    """With no radius the camera stands still, and only time runs."""
    options = ("--seconds", "0.5", "--radius", "0", "--output-format", "images", "--image-format", "png")
    render(run, "spiral", tmp_path / "frames", *options)
    frames = images(tmp_path / "frames")
    assert len(frames) == 12
    assert (steps(frames[::3]) > 5 * ONE_LEVEL).all()


def test_export_splat(run: Path, tmp_path: Path) -> None:
    call("nest-export", "splat", "--load-config", run, "--output-dir", tmp_path, "--times", "0.25", "0.75")
    first, second = (PlyData.read(tmp_path / f"splat_t{time}.ply")["vertex"] for time in ("0.2500", "0.7500"))
    assert 100 < first.count == second.count <= 200
    assert {"x", "y", "z", "opacity", "scale_0", "rot_0", "f_dc_0"} <= set(first.data.dtype.names)
    assert all(np.isfinite(first[name]).all() for name in first.data.dtype.names)
    assert np.abs(first["z"] - second["z"]).max() > 0.1  # the scene has moved
    assert np.array_equal(first["opacity"], second["opacity"])
