"""Times of a trained run, for benchmarks/cuda.py: frames, training steps; numba against gsplat on its scene.

python -m benchmarks.cuda_run RUN/config.yml
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
import yaml
from nerfstudio.engine.callbacks import TrainingCallbackLocation as Location
from nerfstudio.utils.eval_utils import eval_setup
from torch import Tensor
from torchmetrics.image import lpip

from nest_nerfstudio.cameras import cameras_to_views
from nest_nerfstudio.models.nest_dynamic import NestDynamicModel
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.types import Gaussians, Views

ON_CUDA = torch.cuda.is_available()


@dataclass
class Times:
    """Measure a run."""

    config: Annotated[Path, tyro.conf.Positional]
    """Its config.yml."""
    frames: int = 48 if ON_CUDA else 2
    """Timed frames."""
    steps: int = 100 if ON_CUDA else 2
    """Timed training steps."""
    offline: bool = False
    """A run of one of nerfstudio's own models: without LPIPS, and timed in steps only, as its checkpoints do
    not load with torch ≥ 2.6."""

    def main(self) -> None:
        """Each part, whatever becomes of the others; figures as a line for benchmarks/cuda.py."""
        found: dict[str, Any] = {}
        for part in (self._steps,) if self.offline else (self._frames, self._steps):
            try:
                found |= part()
            except Exception as error:
                found[f"{part.__name__[1:]}_error"] = repr(error)[:300]
        if ON_CUDA:
            found["peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
        print("RESULT", json.dumps(found))
        sys.exit(any(name.endswith("_error") for name in found))

    @torch.no_grad()
    def _frames(self) -> dict[str, Any]:
        """Frames of the evaluation cameras, as ns-render asks for them."""
        _, pipeline, _, _ = eval_setup(self.config)
        model = pipeline.model
        cameras = pipeline.datamanager.eval_dataset.cameras.to(pipeline.device)
        draw: Callable[[int], Any] = lambda i: model.get_outputs_for_camera(_one(cameras, i))  # noqa: E731
        seconds = _median(draw, self.frames)
        found = {"frame_ms": 1e3 * seconds, "frames_per_second": 1 / seconds}
        if isinstance(model, NestDynamicModel):
            found |= _agreement(model, cameras_to_views(_one(cameras, 0)))
        return found

    def _steps(self) -> dict[str, Any]:
        """Training steps from where the run ended; a run of nerfstudio's own models starts anew."""
        if self.offline:
            leave_lpips_out()
        config = yaml.load(self.config.read_text(), Loader=yaml.Loader)
        config.load_dir = None if self.offline else config.get_checkpoint_dir()
        config.vis, config.output_dir = "tensorboard", config.output_dir / "timed"
        trainer = config.setup()
        trainer.setup()
        first = trainer._start_step

        def step(i: int) -> None:
            trainer.step = first + i
            trainer.pipeline.train()
            for callback in trainer.callbacks:
                callback.run_callback_at_location(first + i, Location.BEFORE_TRAIN_ITERATION)
            trainer.train_iteration(first + i)
            for callback in trainer.callbacks:
                callback.run_callback_at_location(first + i, Location.AFTER_TRAIN_ITERATION)

        return {"step_ms": 1e3 * _median(step, self.steps)}


def leave_lpips_out() -> None:
    """For nerfstudio's own models, which make LPIPS, and so download weights, when they are built."""

    class NoLpips(torch.nn.Module):
        def __init__(self, **settings: Any) -> None:
            super().__init__()

    lpip.LearnedPerceptualImagePatchSimilarity = NoLpips


def _one(cameras: Any, i: int) -> Any:
    i %= len(cameras)
    return cameras[i : i + 1]


def _median(what: Callable[[int], Any], count: int) -> float:
    """Seconds of one, after three that are not timed."""
    times = []
    for i in range(count + 3):
        began = _now()
        what(i)
        times.append(_now() - began)
    return statistics.median(times[3:])


def _now() -> float:
    if ON_CUDA:
        torch.cuda.synchronize()
    return time.perf_counter()


def _agreement(model: NestDynamicModel, views: Views) -> dict[str, float]:
    """PSNR of gsplat's image (without CUDA: of the reference, of few Gaussians) against that of numba."""
    assert views.times is not None
    shown = model.shown_scene().gaussians_at(views.times[0])
    gaussians = Gaussians(*(getattr(shown, part.name).detach().cpu() for part in fields(Gaussians)))
    if not ON_CUDA:
        gaussians = gaussians.select(torch.arange(min(200, len(gaussians))))
    wanted = _drawn(gaussians, views, "numba", "cpu")
    got = _drawn(gaussians, views, *(("gsplat", "cuda") if ON_CUDA else ("dense", "cpu")))
    error = (got - wanted).double().square().mean().clamp_min(1e-20)
    return {"gaussians": len(gaussians), "agreement_db": float(-10 * error.log10())}


def _drawn(gaussians: Gaussians, views: Views, name: Any, device: str) -> Tensor:
    moved = Gaussians(*(getattr(gaussians, part.name).to(device) for part in fields(Gaussians)))
    cameras = views.viewmats.to(device), views.Ks.to(device)
    return create_rasterizer(name, device)(moved, *cameras, views.width, views.height).rgb.cpu()


if __name__ == "__main__":
    tyro.cli(Times).main()
