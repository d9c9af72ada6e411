"""Clips of data/motions with fewer frames, and nest-dynamic runs on them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nest_nerfstudio.spread import spread

Splits = dict[str, list[dict]]
"""Frames of a clip by split."""


def with_frames(scene: Path, count: int, folder: Path) -> Path:
    """A copy of a clip in a new folder, with at most so many train frames in motion, evenly over time."""

    def fewer(splits: Splits) -> Splits:
        resting = [frame for frame in splits["train"] if frame["time"] == 0]
        moving = [frame for frame in splits["train"] if frame["time"] != 0]
        return {"train": resting + spread(sorted(moving, key=lambda frame: frame["time"]), count)}

    return _copied(scene, folder, fewer)


def first_part(scene: Path, until: float, folder: Path) -> Path:
    """A copy of a clip in a new folder, with its train frames up to a time; those after it are tested."""

    def parted(splits: Splits) -> Splits:
        frames = splits["train"]
        train, test = ([f for f in frames if (f["time"] <= until) is seen] for seen in (True, False))
        return {"train": train, "test": test}

    return _copied(scene, folder, parted)


def _copied(scene: Path, folder: Path, change: Callable[[Splits], Splits]) -> Path:
    """A copy of a clip in a new folder, with other frames in some of its splits."""
    shutil.copytree(scene, folder)
    paths = {split: folder / f"transforms_{split}.json" for split in ("train", "test")}
    metas = {split: json.loads(path.read_text()) for split, path in paths.items()}
    for split, frames in change({split: meta["frames"] for split, meta in metas.items()}).items():
        paths[split].chmod(0o644)
        paths[split].write_text(json.dumps(metas[split] | {"frames": frames}))
    return folder


def fit(scene: Path, steps: int, prior: Path | None, output: Path) -> tuple[float, float]:
    """PSNR of test images of a clip after a training of so many steps, and the seconds that it took."""
    from nest_nerfstudio.method_configs.nest_dynamic import nest_dynamic

    config: Any = replace(nest_dynamic.config, data=scene, output_dir=output, vis="tensorboard")
    config.pipeline = replace(
        config.pipeline,
        datamanager=replace(config.pipeline.datamanager, data=scene),
        model=replace(config.pipeline.model, init=prior),
    )
    config.max_num_iterations, config.steps_per_eval_image = steps, 0
    config.set_timestamp()
    torch.manual_seed(0)
    start = time.perf_counter()
    trainer = config.setup()
    trainer.setup(test_mode="val")
    trainer.train()
    seconds = time.perf_counter() - start
    trainer.pipeline.eval()
    return trainer.pipeline.get_average_eval_image_metrics()["psnr"], seconds
