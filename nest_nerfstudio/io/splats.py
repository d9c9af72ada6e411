"""3D Gaussian Splatting PLY files, and the changes that Gaussians take on the way into one."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from plyfile import PlyData, PlyElement
from torch import Tensor
from torch.nn import functional as F

from nest_nerfstudio.files import written_whole
from nest_nerfstudio.geometry.quaternion import quat_multiply, quat_normalize, rotmat_to_quat
from nest_nerfstudio.geometry.sh import MAX_DEGREE, rotate_sh
from nest_nerfstudio.geometry.sh import sh_degree as degree_of_sh
from nest_nerfstudio.io.ply import read_vertices
from nest_nerfstudio.types import Gaussians


def write_splat_ply(path: Path, gaussians: Gaussians) -> None:
    """Write Gaussians as the original 3D Gaussian Splatting does (binary little endian, float32).

    Scales are stored as logarithms, opacities as logits, quaternions as wxyz, and the spherical harmonics
    above degree 0 channel by channel. The file appears when it is complete: a failure leaves an older one
    unchanged.

    Args:
        path: of the file; its folder exists.
        gaussians: finite values, any device.

    Raises:
        ValueError: no Gaussians, or values that are not finite.
    """
    if len(gaussians) == 0:
        raise ValueError("the scene has no Gaussians to write; train longer, or look at the run in ns-viewer")
    columns = _to_columns(gaussians)
    table = np.concatenate([values for _, values in columns], axis=1).astype("<f4")
    if not np.isfinite(table).all():
        raise ValueError("some Gaussians are not finite; drop them before writing")
    rows = table.view([(name, "<f4") for names, _ in columns for name in names])[:, 0]
    ply = PlyData([PlyElement.describe(rows, "vertex")], byte_order="<")
    with written_whole(path) as part:
        ply.write(str(part))


def read_splat_ply(path: Path) -> Gaussians:
    """Read a 3D Gaussian Splatting PLY file: the inverse of `write_splat_ply`.

    Args:
        path: of a file with the usual properties, in any order; others are ignored.

    Returns:
        Gaussians with activated values, float32, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or one that is cut off.
    """
    vertices = read_vertices(path)
    names = vertices.dtype.names or ()

    def columns(wanted: list[str]) -> Tensor:
        for name in wanted:
            if name not in names or vertices.dtype[name].kind not in "fiu":
                raise ValueError(f"{path} is no 3D Gaussian Splatting file: no numeric property {name}")
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


def only_finite(gaussians: Gaussians) -> Gaussians:
    """The Gaussians all of whose values are finite, in their order."""
    return gaussians.select(are_finite(gaussians))


def are_finite(gaussians: Gaussians) -> Bool[Tensor, " n"]:
    """Of which Gaussians all values are finite."""
    parts = (getattr(gaussians, part.name) for part in fields(gaussians))
    return torch.stack([torch.isfinite(part[:, None].flatten(1)).all(1) for part in parts]).all(0)


def with_sh_degree(gaussians: Gaussians, degree: int) -> Gaussians:
    """The same Gaussians with spherical harmonics of exactly this degree, cut or padded with zeros.

    Raises:
        ValueError: degree outside 0 to 3.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"the degree of spherical harmonics goes from 0 to {MAX_DEGREE}, not {degree}")
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
        ValueError: A is not a rotation, the scale is not positive, or float32, of which splat files are, does
            not tell the Gaussians apart there.
    """
    # in float64, as the shift of a georeferenced scene is millions of units
    rotation, shift = transform.to(gaussians.means.device).double().split([3, 1], dim=1)
    identity = torch.eye(3).to(rotation)
    if not torch.allclose(rotation @ rotation.mT, identity, atol=1e-4) or rotation.det() < 0 or scale <= 0:
        raise ValueError("the data parser's transform cannot be undone: it is no rotation, shift and scale")
    inverse = torch.linalg.inv(rotation)  # the transpose is one to 1e-7 only, which at that shift is much
    means = ((gaussians.means.double() / scale - shift[:, 0]) @ inverse.mT).to(gaussians.means)
    offset, size = float(shift.norm()), float(gaussians.scales.median()) / scale
    if offset * torch.finfo(means.dtype).eps > size:
        raise ValueError(
            f"the original frame is {offset:g} units away, where splat files cannot hold sizes of {size:g}; "
            "export without --original-frame, and undo the run's dataparser_transforms.json elsewhere"
        )
    inverse = inverse.to(gaussians.means)
    return Gaussians(
        means=means,
        quats=quat_multiply(rotmat_to_quat(inverse), gaussians.quats),
        scales=gaussians.scales / scale,
        opacities=gaussians.opacities,
        sh=rotate_sh(gaussians.sh, inverse),
    )


def _to_columns(gaussians: Gaussians) -> list[tuple[list[str], np.ndarray]]:
    """Names and stored values of the file's properties, in order."""
    degree_of_sh(gaussians.sh.shape[1])  # raises for a count that no viewer reads
    rest = gaussians.sh[:, 1:].mT.flatten(1)  # channel by channel
    groups = [
        (["x", "y", "z"], gaussians.means),
        (["nx", "ny", "nz"], torch.zeros_like(gaussians.means)),
        (_numbered("f_dc", 3), gaussians.sh[:, 0]),
        (_numbered("f_rest", rest.shape[1]), rest),
        (["opacity"], gaussians.opacity_logits[:, None]),
        (_numbered("scale", 3), gaussians.log_scales),
        (_numbered("rot", 4), quat_normalize(gaussians.quats)),
    ]
    return [(names, values.detach().cpu().numpy()) for names, values in groups]


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name}_{i}" for i in range(count)]
