"""A small part of benchmarks/robustness.py: the world's scale, offset, rotation and times do not matter."""

from pathlib import Path

import pytest

from benchmarks.robustness import MOST_LOST, Variant
from nest_nerfstudio.pipelines.trainer import NestTrainer
from tests.small_capture import write_capture
from tests.small_run import make_config, make_trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture"))


def psnr(data: Path, output: Path) -> float:
    """On the test images, after a short training."""
    trainer: NestTrainer = make_trainer(make_config(data, output, steps=300))
    for step in range(300):
        trainer.train_iteration(step)
    return trainer.pipeline.get_average_eval_image_metrics()["psnr"]


@pytest.fixture(scope="module")
def usual(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Of the scene as it is."""
    return psnr(Variant().write(capture, tmp_path_factory.mktemp("data")), tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    "variant",
    [
        Variant(scale=1e-3, rotation=1, times=(0.0, 0.05)),
        Variant(scale=10.0, offset=1e5),
        Variant(scale=1e3, offset=3.0, rotation=2, times=(1.6e9, 1.6e9 + 100)),
    ],
    ids=str,
)
def test_the_world_of_the_data_does_not_matter(
    variant: Variant, capture: Path, usual: float, tmp_path: Path
) -> None:
    assert usual > 20
    assert psnr(variant.write(capture, tmp_path / "data"), tmp_path / "runs") > usual - MOST_LOST
