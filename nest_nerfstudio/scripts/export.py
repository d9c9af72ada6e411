"""`nest-export`: trained scenes in formats that other programs read.

`splat`: one that moves, at one time or a sequence of times. `scenes`: those that a nest-prior encodes.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import tyro
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from nest_nerfstudio.geometry.quaternion import quat_multiply, quat_normalize, rotmat_to_quat
from nest_nerfstudio.geometry.sh import MAX_DEGREE, rotate_sh
from nest_nerfstudio.geometry.sh import sh_degree as degree_of_sh
from nest_nerfstudio.io.point_clouds import read_cloud
from nest_nerfstudio.types import Gaussians, Points, SceneLatent

_OPACITY_MARGIN = 1e-6  # keeps the logits of 0 and 1 finite
_PLY_TYPES = {
    **{"float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8", "uchar": "u1", "uint8": "u1"},
    **{"char": "i1", "short": "<i2", "ushort": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4"},
}


@runtime_checkable
class MovingScene(Protocol):
    """What a model must offer to be exported."""

    def gaussians_at(self, time: float) -> Gaussians:
        """The scene at a clip time, activated values, nerfstudio's world frame."""
        ...


@runtime_checkable
class ManyScenes(Protocol):
    """What a model of many scenes must offer to be exported."""

    def latent_of(self, scene: int, num_views: int, refined: bool) -> SceneLatent:
        """A scene, encoded from so many of its pictures."""
        ...

    def latent_of_cloud(self, points: Points) -> SceneLatent:
        """A coloured point cloud, encoded."""
        ...


def splat(
    load_config: Path,
    output_dir: Path,
    times: tuple[float, ...] = (),
    num_times: int | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
    sh_degree: int | None = None,
    original_frame: bool = False,
) -> list[Path]:
    """Write 3D Gaussian Splatting PLY files, one per time: `splat_t0.5000.ply`.

    Args:
        load_config: the run's `config.yml`.
        output_dir: where the files go; made if it is not there.
        times: clip times to write; [0, 1] is the observed span, values outside extrapolate.
        num_times: instead of `times`: this many, evenly from `t0` to `t1` (both included).
        t0: first time of such a sequence.
        t1: last time of such a sequence.
        sh_degree: write spherical harmonics of exactly this degree (0 to 3), cut or filled with zeros; some
            viewers read only 3. By default what the scene has.
        original_frame: undo the transform and scale that nerfstudio's data parser applied to the cameras.

    Returns:
        The files, in the order of their times.

    Raises:
        FileNotFoundError: no such run.
        ValueError: times that make no sequence, a run of another method, or a scene without Gaussians.
    """
    paths = {output_dir / f"splat_t{time:.4f}.ply": time for time in _times(times, num_times, t0, t1)}
    pipeline = _load(load_config, MovingScene, "use `nest-export scenes` or nerfstudio's ns-export")
    model, parsed = pipeline.model, pipeline.datamanager.train_dataparser_outputs
    output_dir.mkdir(parents=True, exist_ok=True)
    for path, time in track(paths.items(), "Writing splats", console=CONSOLE, disable=len(paths) == 1):
        with torch.no_grad():
            gaussians = _only_finite(model.gaussians_at(time), f"t = {time:.4f}")
            if original_frame:
                scale = float(parsed.dataparser_scale)
                gaussians = undo_transform(gaussians, parsed.dataparser_transform, scale)
        write_splat_ply(path, gaussians if sh_degree is None else with_sh_degree(gaussians, sh_degree))
    CONSOLE.print(_wrote(list(paths)))
    return list(paths)


def scenes(
    load_config: Path,
    output_dir: Path,
    names: tuple[str, ...] = (),
    clouds: tuple[Path, ...] = (),
    data: Path | None = None,
    scene_format: str | None = None,
    num_views: int = 8,
    refined: bool = True,
    sh_degree: int | None = None,
) -> list[Path]:
    """Encode scenes with a trained nest-prior and write a 3D Gaussian Splatting PLY file of each: `NAME.ply`.

    Args:
        load_config: the run's `config.yml`.
        output_dir: where the files go; made if it is not there.
        names: of the scenes; without names and clouds, all that were held out, or all of `data`.
        data: other scenes than those of the training: a folder with `scenes.json`, …
        scene_format: … or one scene that this parser of nerfstudio's reads (`nerfstudio-data`, …).
        clouds: files of coloured points to encode too, in the frame and at the scale of the scenes.
        num_views: pictures to encode a scene from; fewer where it has fewer.
        refined: also optimise each latent on its pictures (seconds a scene).
        sh_degree: write spherical harmonics of exactly this degree (0 to 3), cut or filled with zeros.

    Returns:
        The files, clouds last.

    Raises:
        FileNotFoundError: no such run or cloud.
        ValueError: a scene that is not there, two of one name, a run of another method, a model that does not
            read clouds.
    """
    if num_views < 1:
        raise ValueError(f"--num-views {num_views} must be 1 or more")
    if scene_format is not None and data is None:
        raise ValueError(f"--scene-format {scene_format} says how to read --data, which is not given")
    pipeline = _load(
        load_config,
        ManyScenes,
        "use `nest-export splat` or nerfstudio's ns-export",
        lambda config: _read_instead(config, data, scene_format),
    )
    model, index = pipeline.model, pipeline.datamanager.index
    numbers = [index.find(name) for name in names] or ([] if clouds else pipeline.datamanager.held_out)
    chosen: list[tuple[str, int | Points]] = [(index.entries[i].name, i) for i in numbers]
    chosen += [(path.stem, read_cloud(path)) for path in clouds]
    paths = [output_dir / f"{name}.ply" for name, _ in chosen]
    if len(set(paths)) < len(paths):
        raise ValueError("two scenes or clouds have one name, so one file; write them into two folders")
    output_dir.mkdir(parents=True, exist_ok=True)
    for path, (_, what) in zip(paths, track(chosen, "Encoding", console=CONSOLE), strict=True):
        with torch.no_grad():
            latent = (
                model.latent_of_cloud(what)
                if isinstance(what, Points)
                else model.latent_of(what, num_views, refined)
            )
            gaussians = _only_finite(model.field(latent), path.stem)
        write_splat_ply(path, gaussians if sh_degree is None else with_sh_degree(gaussians, sh_degree))
    CONSOLE.print(_wrote(paths))
    return paths


def write_splat_ply(path: Path, gaussians: Gaussians) -> None:
    """Write Gaussians as the original 3D Gaussian Splatting does (binary little endian, float32).

    Scales as logarithms, opacities as logits, quaternions wxyz, the spherical harmonics above degree 0
    channel by channel. The file appears when it is whole: a failure leaves an older one as it was.

    Args:
        path: of the file; its folder exists.
        gaussians: finite values, any device.

    Raises:
        ValueError: no Gaussians, or values that are not finite.
    """
    if len(gaussians) == 0:
        raise ValueError("the scene has no Gaussians to write; train longer, or look at the run in ns-viewer")
    fields = _to_fields(gaussians)
    table = np.concatenate([values for _, values in fields], axis=1).astype("<f4")
    if not np.isfinite(table).all():
        raise ValueError("some Gaussians are not finite; drop them before writing")
    names = [name for group, _ in fields for name in group]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [f"property float {name}" for name in names] + ["end_header", ""]
    _write_atomically(path, "\n".join(header).encode("ascii") + table.tobytes())


def read_splat_ply(path: Path) -> Gaussians:
    """Read a 3D Gaussian Splatting PLY file: the inverse of `write_splat_ply`.

    Args:
        path: of a binary little-endian file with the usual properties; others are left out.

    Returns:
        Gaussians with activated values, float32, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or one that is cut off.
    """
    vertices = _read_vertices(path)
    names = vertices.dtype.names or ()

    def columns(wanted: list[str]) -> Tensor:
        missing = [name for name in wanted if name not in names]
        if missing:
            raise ValueError(f"{path} is no 3D Gaussian Splatting file: it has no property {missing[0]}")
        return torch.from_numpy(np.stack([vertices[name].astype(np.float32) for name in wanted], axis=-1))

    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in (0, 9, 24, 45):
        raise ValueError(f"{path} has {rest} properties f_rest_*; degrees 0 to 3 have 0, 9, 24 or 45")
    dc = columns(_numbered("f_dc", 3))[:, None]
    higher = columns(_numbered("f_rest", rest)).unflatten(1, (3, rest // 3)).mT if rest else dc[:, :0]
    return Gaussians(
        means=columns(["x", "y", "z"]),
        quats=quat_normalize(columns(_numbered("rot", 4))),
        scales=columns(_numbered("scale", 3)).exp(),
        opacities=columns(["opacity"])[:, 0].sigmoid(),
        sh=torch.cat([dc, higher], dim=1),
    )


def with_sh_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians with spherical harmonics of exactly this degree, cut or filled with zeros.

    Raises:
        ValueError: degree outside 0 to 3.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"--sh-degree goes from 0 to {MAX_DEGREE}, not {degree}")
    sh = gaussians.sh[:, : (degree + 1) ** 2]
    return replace(gaussians, sh=F.pad(sh, (0, 0, 0, (degree + 1) ** 2 - sh.shape[1])))


def undo_transform(gaussians: Gaussians, transform: Float[Tensor, "3 4"], scale: float) -> Gaussians:
    """Gaussians in the frame from which a data parser made x' = scale · (A x + b).

    Args:
        gaussians: in nerfstudio's frame.
        transform: [A | b], `dataparser_transform`.
        scale: `dataparser_scale`.

    Returns:
        Gaussians in the frame of the original cameras.

    Raises:
        ValueError: A is not a rotation, or the scale is not positive.
    """
    transform = transform.to(gaussians.means)
    rotation, shift = transform[:, :3], transform[:, 3]
    identity = torch.eye(3).to(rotation)
    if not torch.allclose(rotation @ rotation.mT, identity, atol=1e-4) or rotation.det() < 0 or scale <= 0:
        raise ValueError(
            "the data parser's transform is not a rotation, shift and scale; leave --original-frame out"
        )
    inverse = rotation.mT
    return Gaussians(
        means=(gaussians.means / scale - shift) @ rotation,
        quats=quat_multiply(rotmat_to_quat(inverse), gaussians.quats),
        scales=gaussians.scales / scale,
        opacities=gaussians.opacities,
        sh=rotate_sh(gaussians.sh, inverse),
    )


def _times(times: tuple[float, ...], num_times: int | None, t0: float, t1: float) -> list[float]:
    if times and num_times is not None:
        raise ValueError("give either --times or --num-times, not both")
    if num_times is not None:
        if num_times < 1 or not t0 < t1:
            raise ValueError(
                f"--num-times {num_times} from --t0 {t0} to --t1 {t1} is no sequence: need 1 or more, t0 < t1"
            )
        times = tuple(np.linspace(t0, t1, num_times).tolist())
    times = times or (0.0,)
    if not all(map(math.isfinite, times)):
        raise ValueError(f"times must be finite numbers, got {times}")
    if len({f"{time:.4f}" for time in times}) < len(times):
        raise ValueError("two times have one file name (four decimals); give times at least 0.0001 apart")
    return list(times)


def _load(
    load_config: Path, wanted: type, otherwise: str, change: Callable[[Any], None] = lambda _: None
) -> Any:
    """Pipeline of a run whose model is of a kind, without its images; other models are not built.

    Args:
        load_config: the run's `config.yml`.
        wanted: what its model has to be.
        otherwise: what to do where it is not.
        change: changes the run's config before anything is built.
    """
    if not load_config.is_file():
        raise FileNotFoundError(f"no run at {load_config}; give the config.yml that ns-train wrote")
    from nerfstudio.utils.eval_utils import eval_setup  # imports every method that is installed

    def require(config: Any) -> Any:
        if not issubclass(config.pipeline.model._target, wanted):
            raise ValueError(f"this does not export {config.method_name}; {otherwise}")
        change(config)
        return config

    return eval_setup(load_config, test_mode="inference", update_config_callback=require)[1]


def _read_instead(config: Any, data: Path | None, scene_format: str | None) -> None:
    """Have a run of nest-prior read other scenes than its own, if any are given, and hold all of them out."""
    if data is None:
        return
    manager = config.pipeline.datamanager
    manager.data = manager.dataparser.data = data
    manager.dataparser.holdout, manager.dataparser.scenes, manager.dataparser.scene_parser = 1, (), None
    if scene_format is not None:
        manager.dataparser.scenes, manager.dataparser.scene_format = (Path(),), scene_format


def _wrote(paths: list[Path]) -> str:
    return f"Wrote {len(paths)} file(s): {', '.join(map(str, paths[:3]))}{' …' * (len(paths) > 3)}"


def _only_finite(gaussians: Gaussians, owner: str) -> Gaussians:
    parts = {name: getattr(gaussians, name) for name in ("means", "quats", "scales", "opacities", "sh")}
    good = torch.stack([torch.isfinite(part[:, None].flatten(1)).all(1) for part in parts.values()]).all(0)
    dropped = int((~good).sum())
    if dropped:
        CONSOLE.print(f"{owner}: left out {dropped} of {len(good)} Gaussians that are not finite")
    return Gaussians(**{name: part[good] for name, part in parts.items()})


def _to_fields(gaussians: Gaussians) -> list[tuple[list[str], np.ndarray]]:
    """Names and stored values of the file's properties, in order."""
    degree_of_sh(gaussians.sh.shape[1])  # raises for a count that no viewer reads
    rest = gaussians.sh[:, 1:].mT.flatten(1)  # channel by channel
    # The logarithm of float32's smallest normal number stands for a scale of 0.
    log_scales = gaussians.scales.clamp_min(torch.finfo(torch.float32).tiny).log()
    groups = [
        (["x", "y", "z"], gaussians.means),
        (["nx", "ny", "nz"], torch.zeros_like(gaussians.means)),
        (_numbered("f_dc", 3), gaussians.sh[:, 0]),
        (_numbered("f_rest", rest.shape[1]), rest),
        (["opacity"], torch.logit(gaussians.opacities, eps=_OPACITY_MARGIN)[:, None]),
        (_numbered("scale", 3), log_scales),
        (_numbered("rot", 4), quat_normalize(gaussians.quats)),
    ]
    return [(names, values.detach().cpu().numpy()) for names, values in groups]


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{i}" for i in range(count)]


def _write_atomically(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read_vertices(path: Path) -> np.ndarray:
    header, found, body = path.read_bytes().partition(b"end_header\n")
    lines = [line.split() for line in header.decode("ascii", "replace").splitlines()]
    if not found or lines[:1] != [["ply"]] or ["format", "binary_little_endian", "1.0"] not in lines:
        raise ValueError(f"{path} is not a binary little-endian PLY file")
    elements = [line for line in lines if line[:1] == ["element"]]
    properties = [line[1:] for line in lines if line[:1] == ["property"]]
    if len(elements) != 1 or elements[0][1] != "vertex" or any(p[0] not in _PLY_TYPES for p in properties):
        raise ValueError(f"{path} is no 3D Gaussian Splatting file: it has more than plain vertices")
    count, dtype = int(elements[0][2]), np.dtype([(name, _PLY_TYPES[kind]) for kind, name in properties])
    if len(body) < count * dtype.itemsize:
        raise ValueError(f"{path} is cut off: {len(body)} of {count * dtype.itemsize} bytes are there")
    return np.frombuffer(body, dtype=dtype, count=count)


def entrypoint() -> None:
    """The `nest-export` command."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"splat": splat, "scenes": scenes}, prog="nest-export", description=__doc__
        )
    except (ValueError, OSError) as error:
        sys.exit(f"nest-export: {error}")


if __name__ == "__main__":
    entrypoint()
