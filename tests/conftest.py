"""Shapes and types of the whole package are checked at run time while it is under test."""

import os
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("nest_nerfstudio", "beartype.beartype")

DATA = Path(os.environ.get("NEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_configure() -> None:
    """As in a training: with anything beside it, a suite whose OpenMP threads spin takes forever."""
    from nest_nerfstudio.thread_pool import give_cores_to_kernels

    give_cores_to_kernels()


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """Seed, and undo what a training leaves behind in the process."""
    torch.manual_seed(0)
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real captures; skips where it is not there."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set NEST_DATA to its folder")
    return DATA


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that no process waits at the end for one that began late."""
    ranks: dict[Path, int] = defaultdict(int)
    for item in items:
        rank = ("slow" in item.keywords) + ("browser" in item.keywords)
        ranks[item.path] = max(ranks[item.path], rank)
    items.sort(key=lambda item: -ranks[item.path])
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "cuda" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dynamic scene on disk, D-NeRF JSON."""
    from tests.small_capture import write_capture

    return write_capture(tmp_path_factory.mktemp("capture"))


@pytest.fixture(scope="session")
def small_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`config.yml` of a prior of a few steps, on scenes of balls; balls_2 is held out. To be read only."""
    from tests.small_inversion import train_prior

    return train_prior(tmp_path_factory.mktemp("prior"))
