"""What inversion of a prior earns over its encoder, on scenes that the prior was not trained on.

python benchmarks/inversion.py scores --load-config RUN/config.yml
python benchmarks/inversion.py camera --load-config RUN/config.yml
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from results import record
from torch import Tensor

from nest_nerfstudio.geometry.multiview import camera_centres
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.models.camera_search import (
    ELEVATIONS,
    ROLLS,
    azimuth_and_distance,
    cameras_around,
    find_camera,
)
from nest_nerfstudio.models.inversion import InversionConfig, Prior, inversion_objective, invert
from nest_nerfstudio.pipelines.prior_run import find_prior, load_prior
from nest_nerfstudio.states import SceneSample
from nest_nerfstudio.types import SceneLatent, Views

FIFTH = 5
"""Hybrid is to reach in a fifth of the steps what the render loss alone reaches from the prior's mean."""


def scores(
    load_config: Path,
    counts: tuple[int, ...] = (1, 2, 4, 8),
    steps: int = 100,
    weight: float = InversionConfig.latent_prior_weight,
    most: int = 0,
) -> None:
    """PSNR and SSIM of unseen views, and seconds, by number of views and way of inversion.

    Args:
        load_config: config.yml of a run of nest-prior.
        counts: numbers of views.
        steps: of each inversion.
        weight: of the prior over latents.
        most: number of held-out scenes; 0: all.
    """
    prior, data = load(load_config)
    hybrid = InversionConfig("hybrid", latent_prior_weight=weight)
    ways = {
        "encoder": (InversionConfig("encoder"), 0),
        "encoder, then render loss": (InversionConfig("encoder"), steps),
        "render loss from the prior's mean": (InversionConfig("prior", latent_prior_weight=0.0), steps),
        "render loss and prior": (InversionConfig("prior", latent_prior_weight=weight), steps),
        "hybrid": (hybrid, steps),
        "hybrid, a fifth of the steps": (hybrid, steps // FIFTH),
    }
    figures: dict[str, dict[str, Any]] = defaultdict(dict)
    print("| views | " + " | ".join(ways) + " |\n" + "|---" * (len(ways) + 1) + "|")
    for count in counts:
        found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        for sample in samples(data, count, most):
            for name, (config, taken) in ways.items():
                start = time.perf_counter()
                latent = invert(sample.context, prior, config, taken)
                seconds = time.perf_counter() - start
                found[name].append((*_score(prior, latent, sample), seconds))
        means = {name: np.mean(values, 0) for name, values in found.items()}
        row = [f"{psnr:.2f} / {ssim:.3f} / {seconds:.1f} s" for psnr, ssim, seconds in means.values()]
        print(f"| {count} | " + " | ".join(row) + " |", flush=True)
        for name, values in means.items():
            for metric, value in zip(("psnr", "ssim", "seconds"), values, strict=True):
                figures[name].setdefault(metric, {})[str(count)] = float(value)
            figures[name]["steps"] = ways[name][1]
    settings = {"run": load_config, "data": data.dataparser.config.data, "steps": steps, "weight": weight}
    settings["scenes"] = most or len(data.held_out)
    record("inversion_scores", figures, settings=settings)


def camera(
    load_config: Path,
    steps: int = 100,
    weight: float = InversionConfig.latent_prior_weight,
    views: int = 8,
    most: int = 0,
) -> None:
    """Share of held-out scenes whose camera is found within 10° from one image, and the median error.

    The scene is unknown: the error is up to a turn about gravity, which no image tells. Or it is known, from
    other views: the error is of the whole rotation.

    Args:
        load_config: config.yml of a run of nest-prior.
        steps: of each fit.
        weight: of the prior over latents.
        views: number of the other views.
        most: number of held-out scenes; 0: all.
    """
    prior, data = load(load_config)
    config = InversionConfig("hybrid", latent_prior_weight=weight)
    alone, count = InversionConfig("encoder"), len(ELEVATIONS) * len(ROLLS)
    errors: dict[str, list[float]] = defaultdict(list)
    for i, sample in enumerate(samples(data, 1 + views, most)):
        view, others = sample.context.select(slice(1)), sample.context.select(slice(1, None))
        distance = azimuth_and_distance(view)[1]
        scene = invert(others, prior, alone, steps=80)
        around = tuple(30.0 * i for i in range(12))
        ways = {
            "unknown scene": (False, cameras_around(distance)),
            "unknown scene, random starts": (
                False,
                _random_cameras(distance, count, i),
            ),
            "known scene": (True, cameras_around(distance, around, rolls=(0.0,))),
            "known scene, random starts": (True, _random_cameras(distance, 3, i)),
        }
        for name, (is_known, starts) in ways.items():
            found = find_camera(
                view,
                (lambda _, scene=scene: scene) if is_known else prior.model.encoder,
                partial(inversion_objective, prior, alone if is_known else config, 1),
                starts,
                steps,
                scene_is_known=is_known,
            )
            errors[name].append(_angle(found.view, view, up_to_azimuth=not is_known))
    figures = {}
    for name, values in errors.items():
        share = float(np.mean(np.array(values) <= 10))
        figures[name] = {"within 10°": share, "median": float(np.median(values)), "scenes": len(values)}
        print(name, figures[name], flush=True)
    settings = {"run": load_config, "data": data.dataparser.config.data, "steps": steps, "weight": weight}
    record("inversion_camera", figures, settings=settings)


def load(load_config: Path) -> tuple[Prior, Any]:
    """A prior, and the data manager of its scenes."""
    prior = load_prior(load_config)
    manager = find_prior(load_config).config.pipeline.datamanager
    return prior, manager.setup(device=prior.model.device, test_mode="test")


def held_out(data: Any, most: int) -> list[int]:
    """Numbers of the held-out scenes; of so many at most, evenly spread; 0: all."""
    numbers = list(data.held_out)
    return [numbers[i * len(numbers) // most] for i in range(most)] if 0 < most < len(numbers) else numbers


def samples(data: Any, count: int, most: int = 0) -> Iterator[SceneSample]:
    """Held-out scenes with so many context views and targets of the same state."""
    for number in held_out(data, most):
        sample = data.eval_sample(number, count)
        yield replace(sample, targets=sample.targets[:1])


def _score(prior: Prior, latent: SceneLatent, sample: SceneSample) -> tuple[float, float]:
    """Means over the target images: PSNR in dB, and SSIM."""
    found = [metrics for _, metrics, _ in prior.model.score(latent, sample)]
    psnr, ssim = (float(np.mean([metrics[name] for metrics in found])) for name in ("psnr", "ssim"))
    return psnr, ssim


def _random_cameras(distance: float, count: int, seed: int) -> Tensor:
    """Cameras that look at the origin from anywhere above the ground, turned about their axes by anything."""
    rng = np.random.default_rng(seed)
    return torch.cat(
        [
            cameras_around(
                distance,
                (rng.uniform(0, 360),),
                (math.degrees(math.asin(rng.uniform(-0.25, 0.97))),),
                (rng.uniform(-180, 180),),
            )
            for _ in range(count)
        ]
    )


def _angle(found: Views, true: Views, up_to_azimuth: bool) -> float:
    """Angle between the rotations of two cameras, degrees."""
    rotation = found.viewmats[0, :3, :3]
    if up_to_azimuth:
        centres = [camera_centres(views.viewmats)[0] for views in (found, true)]
        turn = float(centres[0][1].atan2(centres[0][0]) - centres[1][1].atan2(centres[1][0]))
        rotation = rotation @ quat_to_rotmat(quat_exp(rotation.new_tensor([0.0, 0.0, turn])))
    cosine = ((rotation @ true.viewmats[0, :3, :3].mT).trace() - 1) / 2
    return math.degrees(math.acos(min(1.0, max(-1.0, float(cosine)))))


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"scores": scores, "camera": camera})
