"""`nest-export web`: a web page that plays a scene."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.dynamics.orbit import Orbit
from nest_nerfstudio.io.splats import are_finite, only_finite
from nest_nerfstudio.io.web import Type, pack, write_page
from nest_nerfstudio.models.playable import Playable, playable
from nest_nerfstudio.scripts.exported_scenes import EncodedScenes, make_folder_of, named_path, open_run
from nest_nerfstudio.types import Material, RiggedGaussians

MANY = 100_000
"""Gaussians that take a page about 60 ms a frame to pose, on one core."""


def web(
    run: Annotated[Path, tyro.conf.Positional],
    output: Path = Path("scene.html"),
    t0: float = -1.0,
    t1: float = 3.0,
    max_gaussians: int | None = None,
    scenes: EncodedScenes = EncodedScenes(),  # noqa: B008
) -> list[Path]:
    """Write a web page that plays a scene of a run of any of our methods: one file, which needs no network.

    The page runs the model itself: motion in closed form, or from a table of its state, and the skinning of
    all Gaussians. It has a camera, time from before to after the clip, tokens to move, turn, recolour and
    hide, and, where the light is known, the light.

    Args:
        run: the run's `config.yml`, or its folder.
        output: the page; for several scenes of a nest-prior run, the name of each is added.
        t0: first time of the slider, in clips, ≤ 0; motion that does not repeat stands still before it.
        t1: last time of the slider, ≥ 1; a cycle goes on beyond it for ever, other motion stands still.
        max_gaussians: keep at most this many Gaussians, those that cover most.
        scenes: of a nest-prior run: which scenes.

    Returns:
        The pages.

    Raises:
        FileNotFoundError: no such run or cloud.
        OSError: the page cannot be written.
        ValueError: settings that do not go together, a scene that is not there, a run of another method, a
            scene without Gaussians, or one whose motion is no motion of tokens.
    """
    if not (math.isfinite(t0) and math.isfinite(t1) and t0 <= 0 and t1 >= 1):
        raise ValueError(f"the page's time goes from --t0 ≤ 0 to --t1 ≥ 1, not from {t0} to {t1}")
    if max_gaussians is not None and max_gaussians < 1:
        raise ValueError(f"--max-gaussians {max_gaussians} must be 1 or more")
    make_folder_of(output)
    found = open_run(run, scenes, output.stem)
    data = found.pipeline.datamanager
    cameras = None if found.is_many else data.train_dataparser_outputs.cameras
    written = []
    for name, decode in found.scenes:
        path = named_path(output, name, len(found.scenes))
        with torch.no_grad():
            decoded = decode()
            scene = _thinned(playable(decoded, t0, t1), name, max_gaussians)
            camera = _start_camera(cameras, only_finite(decoded.gaussians_at(0.0)).means)
        packed = pack(_header(scene, name, found.pipeline.model, camera, t0, t1), _arrays(scene))
        write_page(path, name, packed)
        _tell(scene, path, len(packed))
        written.append(path)
    return written


def _thinned(scene: Playable, name: str, most: int | None) -> Playable:
    """Only finite Gaussians, and of them no more than asked for: those of most opacity times area."""
    rest = scene.rigged.rest
    good = are_finite(rest).nonzero()[:, 0]
    if len(good) < len(rest):
        CONSOLE.print(f"{name}: left out {len(rest) - len(good)} of {len(rest)} Gaussians, not finite")
    if len(good) == 0:
        raise ValueError(f"{name} has no Gaussians to write; train longer, or look at it in ns-viewer")
    if most is None and len(good) > MANY:
        CONSOLE.print(
            f"[yellow]{len(good)} Gaussians are more than most browsers move smoothly; "
            f"--max-gaussians {MANY} keeps those that cover most."
        )
    if most is not None and len(good) > most:  # the two longest axes span the area
        area = rest.scales[good].sort(1).values[:, 1:].prod(1) * rest.opacities[good]
        good = good[area.topk(most).indices.sort().values]
    return replace(scene, rigged=_rows(scene.rigged, good))


def _rows(rigged: RiggedGaussians, index: Tensor) -> RiggedGaussians:
    material = rigged.material
    return replace(
        rigged,
        rest=rigged.rest.select(index),
        tokens=rigged.tokens[index],
        weights=rigged.weights[index],
        material=material and Material(material.albedo[index], material.transfer[index]),
    )


def _arrays(scene: Playable) -> dict[str, tuple[np.ndarray, Type]]:
    """What the page is made of, and how each is stored."""
    rigged, latent, rest = scene.rigged, scene.latent, scene.rigged.rest
    arrays: dict[str, tuple[Tensor, Type]] = {
        "means": (rest.means, "float32"),
        "quats": (rest.quats / rest.quats.norm(dim=1, keepdim=True), "uint16"),
        "log_scales": (rest.log_scales, "uint16"),
        "opacities": (rest.opacities, "uint16"),
        "sh": (rest.sh[:, 1:], "uint8"),
        "rig_tokens": (rigged.tokens, "uint16"),
        "weights": (rigged.weights, "uint16"),
        "bind_quats": (rigged.bind_quats, "float32"),
        "bind_translations": (rigged.bind_translations, "float32"),
        "token_quats": (latent.quats, "float32"),
        "token_translations": (latent.translations, "float32"),
        "ids": (latent.ids, "uint16"),
        "copies": (latent.copies, "uint16"),
        "modes": (scene.modes, "float32"),
        "drift": (scene.drift, "float32"),
    }
    if rigged.material is None:
        arrays["dc"] = rest.sh[:, 0], "uint16"
    else:
        arrays |= {
            "albedo": (rigged.material.albedo, "uint16"),
            "transfer": (rigged.material.transfer, "uint16"),
            "light": (latent.light, "float32"),
        }
    if isinstance(scene.path, Orbit):
        arrays["states"] = scene.path.start, "float32"
    elif scene.path is not None:
        arrays |= {"states": (scene.path.values, "float32"), "slopes": (scene.path.slopes, "float32")}
    return {name: (values.detach().cpu().numpy(), stored) for name, (values, stored) in arrays.items()}


def _header(
    scene: Playable, name: str, model: Any, camera: dict[str, Any], t0: float, t1: float
) -> dict[str, Any]:
    clock, path = scene.latent.motion.time_map, scene.path
    motion: dict[str, Any] = {"kind": "still", "clock": asdict(clock)}
    if isinstance(path, Orbit):
        motion |= {"kind": "orbit", "period": float(path.period), "phase": float(path.phase)}
    elif path is not None:
        motion |= {"kind": "table", "first": path.t0, "last": path.t1}
    time = {"first": t0, "last": t1, "seconds": model.config.playback_seconds, "endless": scene.is_endless}
    return {
        "title": name,
        "background": model.shown_background(model.shows_alpha()).tolist(),
        "antialiased": model.config.rasterize_mode == "antialiased",
        "camera": camera,
        "time": time | {"note": _note(scene)},
        "motion": motion,
        "lit": scene.rigged.material is not None,
    }


def _note(scene: Playable) -> str:
    """What the page says beyond the clip, where nothing moves there."""
    is_free_curve = scene.path is not None and scene.latent.motion.kind == "still"
    return (
        "the training ended before its ODE took over: nothing moves beyond the clip" if is_free_curve else ""
    )


def _start_camera(cameras: Any, means: Tensor) -> dict[str, Any]:
    """The first training camera, which turns about the point on its axis nearest to the scene; or ours.

    `fov` is the angle of the shorter side of the picture, in degrees.
    """
    if cameras is not None:
        pose, sides = cameras.camera_to_worlds[0], torch.stack([cameras.width[0], cameras.height[0]])
        position, ahead = pose[:, 3].to(means), -pose[:, 2].to(means)
        distance = (means.median(0).values - position) @ ahead
        if distance > 0:
            slope = (sides / (2 * torch.stack([cameras.fx[0], cameras.fy[0]]))).min()
            return _camera(position, position + distance * ahead, math.degrees(2 * math.atan(slope)))
    low, high = means.quantile(means.new_tensor([0.01, 0.99]), dim=0)
    centre, fov = (low + high) / 2, 45.0
    distance = (means - centre).norm(dim=1).quantile(0.99) / math.sin(math.radians(fov / 2))
    ahead = means.new_tensor([-2.0, 1.2, -1.0])
    return _camera(centre - distance * ahead / ahead.norm(), centre, fov)


def _camera(position: Tensor, target: Tensor, fov: float) -> dict[str, Any]:
    return {"position": position.tolist(), "target": target.tolist(), "fov": fov}


def _tell(scene: Playable, path: Path, size: int) -> None:
    """What was written, and what it leaves out."""
    whole = path.stat().st_size
    CONSOLE.print(
        f"Wrote {path}: {len(scene.rigged)} Gaussians, {size / 1e6:.2f} MB of data in {whole / 1e6:.2f} MB"
    )
    if scene.path is None:
        CONSOLE.print("The scene does not move, so the page has no time.")
    if note := _note(scene):
        CONSOLE.print(f"[yellow]In the page too: {note}.")
