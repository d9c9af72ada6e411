"""The pipeline of one scene: it starts the model from the data, and keeps both on one schedule."""

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.dnerf_dataparser import DNeRFDataParserConfig
from PIL import Image

from nest_nerfstudio.models.nest_dynamic import NestDynamicModel
from nest_nerfstudio.pipelines.nest_dynamic import NestDynamicPipeline
from nest_nerfstudio.training.image_errors import MAX_IMAGES
from nest_nerfstudio.types import Points, Views
from tests.small_capture import write_capture
from tests.small_run import make_config, make_trainer

pytestmark = pytest.mark.slow

FEWEST = 8


def make_pipeline(capture: Path, output: Path, **model: Any) -> NestDynamicPipeline:
    return cast(NestDynamicPipeline, make_trainer(make_config(capture, output, **model)).pipeline)


@pytest.fixture
def pipeline(capture: Path, tmp_path: Path) -> NestDynamicPipeline:
    """24 train views at as many times, evenly spaced."""
    return make_pipeline(capture, tmp_path)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What models are initialized with."""
    found: list[dict[str, Any]] = []
    original = NestDynamicModel.initialize

    def initialize(self: NestDynamicModel, views: list[Views], seed_points: Any, **others: Any) -> None:
        found.append({"views": views, "seed_points": seed_points, **others})
        original(self, views, seed_points, **others)

    monkeypatch.setattr(NestDynamicModel, "initialize", initialize)
    return found


def times_of(views: Iterable[Views]) -> list[float]:
    return [round(23 * float(view.times[0])) for view in views if view.times is not None]


def drawn_times(pipeline: NestDynamicPipeline, count: int) -> list[int]:
    """Numbers of the times that are trained on next."""
    cameras = [pipeline.datamanager.next_train(0)[0] for _ in range(count)]
    return [round(23 * float(camera.times)) for camera in cameras]


# ---------------------------------------------------------------- start


def test_the_model_starts_from_views_around_the_canonical_time(starts, pipeline) -> None:
    """At least eight, the nearest in time, with images; and all cameras, without."""
    (start,) = starts
    assert sorted(times_of(start["views"])) == [8, 9, 10, 11, 12, 13, 14, 15]
    assert all(view.images is not None and view.alphas is not None for view in start["views"])
    assert len(start["cameras"]) == 24
    assert all(len(view) == 1 and view.images is None for view in start["cameras"])
    assert start["num_times"] == 24
    assert start["seed_points"] is None
    model = pipeline.dynamic_model
    assert len(model.field) == 150
    assert model.num_times == 24
    assert len(model.densification.cameras) == 24
    assert model.has_alpha


def test_a_long_first_window_has_all_of_its_views(starts, capture: Path, tmp_path: Path) -> None:
    config = make_config(capture, tmp_path)
    config.pipeline.model.curriculum.first_window = 0.6
    make_trainer(config)
    assert sorted(times_of(starts[0]["views"])) == list(range(5, 19))


def test_another_canonical_time_is_started_from(starts, capture: Path, tmp_path: Path) -> None:
    config = make_config(capture, tmp_path)
    config.pipeline.model.curriculum.canonical_time = 0.0
    make_trainer(config)
    assert sorted(times_of(starts[0]["views"])) == list(range(8))


def test_a_static_scene_starts_from_all_views(starts, capture: Path, tmp_path: Path) -> None:
    make_pipeline(capture, tmp_path, motion="static")
    assert sorted(times_of(starts[0]["views"])) == list(range(24))


def test_seed_points_of_the_data_reach_the_model(
    starts, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nest_nerfstudio.data.dataparser import NestDynamicDataParser

    xyz, original = torch.randn(40, 3).double(), NestDynamicDataParser.get_dataparser_outputs

    def with_points(self: Any, *args: Any, **kwargs: Any) -> Any:
        parsed = original(self, *args, **kwargs)
        parsed.metadata |= {"points3D_xyz": xyz, "points3D_rgb": torch.full((40, 3), 51, dtype=torch.uint8)}
        return parsed

    monkeypatch.setattr(NestDynamicDataParser, "get_dataparser_outputs", with_points)
    make_pipeline(capture, tmp_path)
    seeds: Points = starts[0]["seed_points"]
    torch.testing.assert_close(seeds.positions, xyz.float())
    torch.testing.assert_close(seeds.rgb, torch.full((40, 3), 0.2))


def test_opaque_images_bring_the_background_of_their_parser(capture: Path, tmp_path: Path) -> None:
    config = make_config(capture, tmp_path)
    config.pipeline.datamanager.dataparser = DNeRFDataParserConfig(data=capture, alpha_color="white")
    model = cast(NestDynamicPipeline, make_trainer(config).pipeline).dynamic_model
    if model.has_alpha:
        assert torch.equal(model.shown_background(True), torch.ones(3))
    else:
        assert torch.equal(model.image_background, torch.ones(3))


def test_a_run_that_is_only_shown_starts_no_model(starts, capture: Path, tmp_path: Path) -> None:
    config = make_config(capture, tmp_path)
    config.pipeline.setup(device="cpu", test_mode="inference")
    assert starts == []


# ---------------------------------------------------------------- schedule


def test_the_data_follows_the_time_window(pipeline) -> None:
    pipeline.set_progress(0, 0.0)
    assert set(drawn_times(pipeline, FEWEST)) == set(range(8, 16))
    pipeline.set_progress(1, 0.15)
    low, high = pipeline.dynamic_model.time_window()
    inside = [i for i in range(24) if low <= i / 23 <= high]
    assert FEWEST < len(inside) < 24
    found = drawn_times(pipeline, 60)
    assert set(found) == set(inside)
    pipeline.set_progress(2, 0.3)
    found += drawn_times(pipeline, 60)
    assert set(found) == set(range(24))


def test_a_static_scene_is_trained_on_all_times(capture: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(capture, tmp_path, motion="static")
    pipeline.set_progress(0, 0.0)
    assert set(drawn_times(pipeline, 24)) == set(range(24))


def test_a_run_resumed_where_all_times_come_into_use_uses_them(
    pipeline, capture: Path, tmp_path: Path
) -> None:
    """Its checkpoint was written with the window of the step before."""
    pipeline.set_progress(5, 0.0)
    resumed = make_pipeline(capture, tmp_path / "resumed")
    resumed.load_pipeline(pipeline.state_dict(), 5)
    resumed.set_progress(6, 0.3)
    assert set(drawn_times(resumed, 48)) == set(range(24))


def test_progress_reaches_the_model(pipeline) -> None:
    pipeline.set_progress(7, 0.35)
    assert pipeline.progress == pipeline.dynamic_model.curriculum.progress.item() == 0.35


def test_views_over_time_are_in_order_and_read_one_by_one(pipeline, monkeypatch) -> None:
    read: list[int] = []
    cached = pipeline.datamanager.cached_train

    class Watched(list):
        def __getitem__(self, index: Any) -> Any:
            read.append(index)
            return super().__getitem__(index)

    monkeypatch.setattr(pipeline.datamanager, "cached_train", Watched(cached))
    views: Iterator[Views] = pipeline.views_over_time()
    assert read == []
    first = next(views)
    assert len(read) == 1
    assert times_of([first, *views]) == list(range(24))


def test_of_many_views_even_steps_are_taken(tmp_path: Path) -> None:
    folder = write_capture(tmp_path / "capture", {"train": 60, "val": 1, "test": 1})
    pipeline = make_pipeline(folder, tmp_path / "run")
    times = [float(view.times[0]) for view in pipeline.views_over_time() if view.times is not None]
    assert len(times) == 30 <= MAX_IMAGES
    torch.testing.assert_close(torch.tensor(times), torch.arange(0, 60, 2) / 59)


def test_images_are_read_for_the_hand_over_only_if_they_are_needed(
    pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def views_over_time() -> Iterator[Views]:
        raise AssertionError("no image is needed")
        yield

    monkeypatch.setattr(pipeline, "views_over_time", views_over_time)
    for step, progress in enumerate((0.0, 0.3, 0.65, 0.7)):
        pipeline.set_progress(step, progress)


# ---------------------------------------------------------------- losses


def test_eval_losses_leave_the_training_as_it_was(pipeline) -> None:
    pipeline.train()
    before, random_state = [p.clone() for p in pipeline.parameters()], torch.get_rng_state()
    outputs, losses, metrics = pipeline.get_eval_loss_dict(0)
    assert not any(loss.requires_grad for loss in losses.values())
    assert outputs["rendering"].rgb.shape == (1, 48, 48, 3)  # full size, although the training has just begun
    assert torch.equal(outputs["background"], torch.ones(3))
    assert metrics["psnr"].isfinite()
    assert pipeline.training
    assert pipeline.model.training
    assert torch.equal(torch.get_rng_state(), random_state)
    for parameter, value in zip(pipeline.parameters(), before, strict=True):
        assert torch.equal(parameter, value)


def test_train_losses_have_gradients(pipeline) -> None:
    pipeline.train()
    pipeline.set_progress(0, 0.0)
    outputs, losses, metrics = pipeline.get_train_loss_dict(0)
    assert {"photometric", "rigidity", "smoothness", "opacity", "scale"} <= set(losses)
    sum(losses.values()).backward()
    field = pipeline.dynamic_model.field
    assert all(field.params[name].grad.any() for name in ("means", "scales", "features_dc"))
    assert set(metrics) == {"psnr", "gaussian_count", "missing"}
    assert outputs["views"].images is not None


@pytest.mark.parametrize("motion", ["ode", "mlp", "static"])
def test_every_parameter_is_in_one_group(capture: Path, tmp_path: Path, motion: str) -> None:
    """Else it would not be trained, or twice."""
    pipeline = make_pipeline(capture, tmp_path, motion=motion)
    groups = pipeline.get_param_groups()
    assert set(groups) <= set(make_config(capture, tmp_path).optimizers)
    grouped = [id(parameter) for group in groups.values() for parameter in group]
    assert len(set(grouped)) == len(grouped)
    left_out = {name for name, p in pipeline.model.named_parameters() if id(p) not in grouped}
    if motion == "ode":
        assert left_out <= {"device_indicator_param", "latent.scene_code"}  # of size 0, as there is one scene
    else:  # nothing follows the tokens
        parts = ("device_indicator_param", "field.token_log_radii", "flow.")
        assert all(name.startswith(parts) for name in left_out)


# ---------------------------------------------------------------- masks


@pytest.fixture(scope="module")
def masked_capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in a square of all images, which is masked out; of one held-out image all is."""
    folder = write_capture(tmp_path_factory.mktemp("masked"))
    rng = np.random.default_rng(0)
    for path in folder.glob("transforms_*.json"):
        meta = json.loads(path.read_text())
        for i, frame in enumerate(meta["frames"]):
            image = folder / f"{frame['file_path']}.png"
            pixels = np.array(Image.open(image))
            mask = np.full(pixels.shape[:2], 255, np.uint8)
            mask[20:32, 16:28] = 0
            if "test" in path.name and i == 0:
                mask[:] = 0
            pixels[mask == 0] = rng.integers(0, 256, (int((mask == 0).sum()), 4)) | [0, 0, 0, 255]
            Image.fromarray(pixels).save(image)
            Image.fromarray(mask).save(image.with_suffix(".mask.png"))
            frame["mask_path"] = f"{frame['file_path']}.mask.png"
        path.write_text(json.dumps(meta))
    return folder


def test_masks_count_from_the_start_to_the_scores(
    masked_capture: Path, tmp_path: Path, starts: list[dict[str, Any]], capsys: pytest.CaptureFixture
) -> None:
    pipeline = make_pipeline(masked_capture, tmp_path)
    (start,) = starts
    for views in (*start["views"], *start["cameras"], *pipeline.views_over_time()):
        assert views.masks is not None
        assert views.masks.mean() == pytest.approx(1 - 144 / 48**2)
    assert start["cameras"][0].images is None
    assert (start["cameras"][-1].viewmats == start["cameras"][23].viewmats).all()
    assert len(list(start["cameras"])) == 24
    scores = pipeline.get_average_eval_image_metrics()
    assert scores["share_used"] == pytest.approx(1 - 144 / 48**2)
    assert math.isfinite(scores["psnr"])
    assert math.isfinite(scores["ssim"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "leave to use, 93.8% of those of 3 of 3 images" in printed


def test_images_of_which_nothing_is_to_be_used_are_not_scored(
    masked_capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config = make_config(masked_capture, tmp_path)
    config.pipeline.datamanager.dataparser.eval_split = "test"
    pipeline = make_trainer(config).pipeline
    scores = pipeline.get_average_eval_image_metrics(get_std=True)
    assert math.isfinite(scores["psnr"])
    assert scores["share_used"] == pytest.approx(1 - 144 / 48**2)
    assert "of those of 3 of 4 images" in " ".join(capsys.readouterr().out.split())


def test_without_masks_all_pixels_are_scored(pipeline: NestDynamicPipeline) -> None:
    assert "share_used" not in pipeline.get_average_eval_image_metrics()


def test_masks_that_are_kept_are_not_read_again(
    masked_capture: Path, tmp_path: Path, starts: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_pipeline(masked_capture, tmp_path)
    monkeypatch.setattr("nest_nerfstudio.data.dataset.read_mask", None)
    assert all(views.masks is not None for views in starts[0]["cameras"])


# ---------------------------------------------------------------- backdrops


@pytest.mark.parametrize(
    ("chosen", "found"), [("auto", True), ("white", True), ("black", False), ("random", False)]
)
def test_a_backdrop_is_used_where_it_may_be_the_background(
    starts: list[dict[str, Any]], capture: Path, tmp_path: Path, capsys: Any, chosen: Any, found: bool
) -> None:
    """Images before white, without alpha."""
    config = make_config(capture, tmp_path, background_color=chosen)
    config.pipeline.datamanager.dataparser.alpha_color = "white"
    make_trainer(config)
    assert all((view.alphas is not None) == found for view in starts[0]["views"])
    assert ("it is the background" in " ".join(capsys.readouterr().out.split())) == found
