"""Images in memory up to a budget, and from disk beyond it."""

from pathlib import Path

import pytest
import torch

from nest_nerfstudio.data.batches import CachedBatches
from nest_nerfstudio.data.dataset import DynamicDataset
from tests.data.small_scenes import parse

IMAGE_BYTES = 8 * 12 * 4


@pytest.mark.parametrize(("capacity", "kept"), [(0, 0), (5 * IMAGE_BYTES, 5), (10**9, 12)])
def test_as_many_are_kept_as_fit_and_all_are_right(
    dnerf: Path, capsys: pytest.CaptureFixture, capacity: int, kept: int
) -> None:
    dataset = DynamicDataset(parse(dnerf))
    batches = CachedBatches(dataset, capacity=capacity)
    batches.load("train")
    assert batches.num_kept == kept
    assert (f"{kept} of 12 are kept in memory" in capsys.readouterr().out) == (kept < 12)
    for order in (range(12), reversed(range(12)), [3, 3, 9]):
        order = list(order)
        for k, i in enumerate(order):
            batches.read_ahead(order[k + 1 :])
            assert torch.equal(batches[i]["image"], dataset.get_data(i, "uint8")["image"])
            assert batches[i]["image_idx"] == i


def test_few_are_read_ahead_and_none_twice(dnerf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = DynamicDataset(parse(dnerf))
    batches = CachedBatches(dataset, capacity=2 * IMAGE_BYTES, num_threads=1)
    batches.load("train")
    read: list[int] = []
    plain = dataset.get_data
    monkeypatch.setattr(dataset, "get_data", lambda i, kind: read.append(i) or plain(i, kind))
    batches.read_ahead([0, 1, 5, 6, 7])  # 0 and 1 are in memory
    assert [batches[i]["image_idx"] for i in (5, 6)] == [5, 6]
    assert read == [5, 6]
    batches.read_ahead([7, 8])
    batches.read_ahead([9])  # what is no longer needed is forgotten
    assert list(batches._ahead) == [9]


def test_float_images_and_places(dnerf: Path) -> None:
    batches = CachedBatches(
        DynamicDataset(parse(dnerf)),
        "float32",
        5 * IMAGE_BYTES,
        place=lambda batch: {**batch, "placed": True},
    )
    batches.load("train")
    assert batches.num_kept == 1  # four bytes a value
    assert ["placed" in batches[i] for i in (0, 1)] == [True, False]
    with pytest.raises(IndexError):
        batches[12]


def test_a_damaged_image_that_is_read_ahead_is_named(dnerf: Path) -> None:
    batches = CachedBatches(DynamicDataset(parse(dnerf)), capacity=0)
    batches.load("train")
    path = dnerf / "train" / "r_4.png"
    path.write_bytes(path.read_bytes()[:-150])
    batches.read_ahead([3, 4])
    assert batches[3]["image_idx"] == 3
    with pytest.raises(ValueError, match=r"r_4\.png: cannot read the image"):
        batches[4]
