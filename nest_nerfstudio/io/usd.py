"""OpenUSD files of moving Gaussians: a `ParticleField3DGaussianSplat` with time samples (extra `usd`)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from nest_nerfstudio.files import written_whole
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.types import Gaussians

RATE = 24.0
"""Time codes of a second."""
SUFFIXES = (".usd", ".usda", ".usdc")
_PRIM = "/scene"


def write_usd(path: Path, frames: Iterable[tuple[float, Gaussians]]) -> None:
    """Write a scene at some moments as one prim of OpenUSD's schema (since OpenUSD 26.03).

    Positions, orientations and spherical harmonics are sampled at each moment; scales and opacities, which do
    not change, are written once. Programs interpolate between samples. z is up. The file appears when it is
    complete.

    Args:
        path: of the file, `.usdc` (binary), `.usda` (text) or `.usd`; its folder exists.
        frames: seconds, and the same Gaussians at that moment, finite; in order, one or more.

    Raises:
        ValueError: another suffix, or usd-core is missing or older than the schema.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} is not named as a USD file: {', '.join(SUFFIXES)}")
    pxr = _pxr()
    with written_whole(path) as part:
        stage = pxr.Usd.Stage.CreateNew(str(part))
        pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.z)
        pxr.UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        stage.SetTimeCodesPerSecond(RATE)
        splats = pxr.UsdVol.ParticleField3DGaussianSplat.Define(stage, _PRIM)
        stage.SetDefaultPrim(splats.GetPrim())
        codes = [_write_frame(pxr, splats, seconds * RATE, gaussians) for seconds, gaussians in frames]
        first = next(iter(codes))
        stage.SetStartTimeCode(first)
        stage.SetEndTimeCode(codes[-1])
        stage.GetRootLayer().Save()
        del splats, stage  # closes the file


def read_usd(path: Path, seconds: float) -> Gaussians:
    """The Gaussians of a file of `write_usd` at a moment, by OpenUSD's interpolation between samples.

    Raises:
        ValueError: no such file or prim, or usd-core is missing.
    """
    pxr = _pxr()
    stage = pxr.Usd.Stage.Open(str(path)) if path.is_file() else None
    prim = stage and stage.GetPrimAtPath(_PRIM)
    if not prim or prim.GetTypeName() != "ParticleField3DGaussianSplat":
        raise ValueError(f"{path} is no USD file of Gaussians at {_PRIM}")

    def values(name: str) -> torch.Tensor:
        return torch.from_numpy(np.array(prim.GetAttribute(name).Get(seconds * RATE), dtype=np.float32))

    means = values("positions")
    return Gaussians(
        means=means,
        quats=quat_normalize(values("orientations")[:, [3, 0, 1, 2]]),  # as arrays they are xyzw
        scales=values("scales"),
        opacities=values("opacities"),
        sh=values("radiance:sphericalHarmonicsCoefficients").view(len(means), -1, 3),
    )


def _write_frame(pxr: Any, splats: Any, code: float, gaussians: Gaussians) -> float:
    """Sample one moment, and write once what never changes; gives the time code."""
    means, quats, scales, opacities, sh = (
        getattr(gaussians, name).detach().cpu().numpy().astype(np.float32)
        for name in ("means", "quats", "scales", "opacities", "sh")
    )
    prim = splats.GetPrim()
    if not splats.GetScalesAttr().HasAuthoredValue():
        splats.GetScalesAttr().Set(pxr.Vt.Vec3fArray.FromNumpy(scales))
        splats.GetOpacitiesAttr().Set(pxr.Vt.FloatArray.FromNumpy(opacities))
        prim.GetAttribute("radiance:sphericalHarmonicsDegree").Set(gaussians.sh_degree)
    margin = 3 * scales.max(1, keepdims=True)
    bounds = np.stack([(means - margin).min(0), (means + margin).max(0)])
    samples = {
        "positions": pxr.Vt.Vec3fArray.FromNumpy(means),
        "orientations": pxr.Vt.QuatfArray.FromNumpy(np.ascontiguousarray(quats[:, [1, 2, 3, 0]])),
        "radiance:sphericalHarmonicsCoefficients": pxr.Vt.Vec3fArray.FromNumpy(sh.reshape(-1, 3)),
        "extent": pxr.Vt.Vec3fArray.FromNumpy(bounds),
    }
    for name, sample in samples.items():
        prim.GetAttribute(name).Set(sample, code)
    return code


def _pxr() -> Any:
    try:
        from pxr import Usd, UsdGeom, UsdVol, Vt
    except ImportError as error:
        raise ValueError("USD files need usd-core: pip install 'nest-nerfstudio[usd]'") from error
    if not hasattr(UsdVol, "ParticleField3DGaussianSplat"):
        raise ValueError("this usd-core has no Gaussians; 26.3 or later has: pip install -U usd-core")
    return SimpleNamespace(Usd=Usd, UsdGeom=UsdGeom, UsdVol=UsdVol, Vt=Vt)
