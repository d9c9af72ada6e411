"""Images of a dataset as batches: in memory as far as they fit, else read from disk, ahead of their use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track

from nest_nerfstudio.data.dataset import DynamicDataset

Batch = dict[str, Any]
"""`image_idx`, `image` [h, w, 3 or 4], and `mask` and `depth_image` [h, w, 1] if present."""
View = tuple[Cameras, Batch]
"""One camera, and its batch."""


class CachedBatches(Sequence[Batch]):
    """The batches of a dataset, of which as many are kept as fit into a budget; none is ever evicted.

    Training draws images in shuffled passes. In such an order a cache that evicts what was used longest ago
    rarely holds what comes next.

    Args:
        dataset: reads the images.
        image_type: type of the images; uint8 takes a quarter of the memory of float32.
        capacity: size of the batches to keep, bytes.
        num_threads: how many threads read ahead.
        place: where a batch that is kept goes, for instance to a device; None leaves it.
    """

    def __init__(
        self,
        dataset: DynamicDataset,
        image_type: Literal["uint8", "float32"] = "uint8",
        capacity: int = 2**62,
        num_threads: int = 2,
        place: Callable[[Batch], Batch] | None = None,
    ):
        self.dataset, self.capacity = dataset, capacity
        self.image_type: Literal["uint8", "float32"] = image_type
        self.num_ahead, self._place = 2 * num_threads, place or (lambda batch: batch)
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="images")
        self._kept: dict[int, Batch] = {}
        self._ahead: dict[int, Future[Batch]] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> Batch:  # type: ignore[override]
        if not 0 <= i < len(self):
            raise IndexError(i)
        if i in self._kept:
            return self._kept[i]
        future = self._ahead.pop(i, None)
        return self._read(i) if future is None else future.result()

    def kept(self, i: int) -> Batch | None:
        """A batch, if it is in memory."""
        return self._kept.get(i)

    @property
    def num_kept(self) -> int:
        """How many batches are in memory."""
        return len(self._kept)

    def load(self, name: str) -> None:
        """Read all images once, and keep as many as fit.

        Args:
            name: of the split, for messages.

        Raises:
            ValueError: a damaged file, or masks that are all empty.
        """
        used = total = 0
        any_pixel = False
        for i in track(range(len(self)), f"Reading {name} images", console=CONSOLE, transient=True):
            self.read_ahead(range(i, len(self)))
            batch = self[i]
            any_pixel = any_pixel or "mask" not in batch or bool(batch["mask"].any())
            size = sum(value.nbytes for value in batch.values() if torch.is_tensor(value))
            total += size
            if used + size <= self.capacity:
                used += size
                self._kept[i] = self._place(batch)
        if not any_pixel:
            raise ValueError(
                f"the masks of all {len(self)} {name} views are empty; white marks pixels to use"
            )
        if self.num_kept < len(self):
            CONSOLE.log(
                f"Images take {total / 2**20:,.0f} MB: {self.num_kept} of {len(self)} are kept in memory, "
                "the others are read from disk when needed (--pipeline.datamanager.cache-megabytes)"
            )

    def read_ahead(self, indices: Iterable[int]) -> None:
        """Start to read the first few of the batches that are needed next and are not in memory.

        Args:
            indices: of the batches, in the order in which they will be needed.
        """
        if self.num_kept == len(self):
            return
        wanted: list[int] = []
        for i in indices:
            if len(wanted) == self.num_ahead:
                break
            if i not in self._kept:
                wanted.append(i)
        for i in self._ahead.keys() - wanted:
            self._ahead.pop(i).cancel()
        for i in wanted:
            if i not in self._ahead:
                self._ahead[i] = self._pool.submit(self._read, i)

    def _read(self, i: int) -> Batch:
        return self.dataset.get_data(i, self.image_type)


class DatasetViews(Sequence[View]):
    """The images of a dataset with their cameras, on a device, each read from disk when it is asked for."""

    def __init__(self, dataset: DynamicDataset, device: torch.device | str):
        self.dataset, self.device = dataset, device
        self.cameras = dataset.cameras.to(device)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> View:  # type: ignore[override]
        if not 0 <= i < len(self):
            raise IndexError(i)
        return single_camera(self.cameras, i), batch_to_device(self.dataset.get_data(i, "uint8"), self.device)


def single_camera(cameras: Cameras, index: int) -> Cameras:
    """One camera, which knows its index as `cam_idx`."""
    camera = cameras[index : index + 1]
    camera.metadata = {**(camera.metadata or {}), "cam_idx": index}
    return camera


def batch_to_device(batch: Batch, device: torch.device | str) -> Batch:
    """A copy of a batch with its tensors on a device and its image in float32, in [0, 1]."""
    ready = {k: v.to(device, non_blocking=True) if torch.is_tensor(v) else v for k, v in batch.items()}
    if ready["image"].dtype == torch.uint8:
        ready["image"] = ready["image"].float().div_(255)  # in place: half the time
    return ready
