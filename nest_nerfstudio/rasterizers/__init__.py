"""π: draws Gaussians. One contract, `Rasterizer`, and three implementations that give the same pictures."""

from __future__ import annotations

from typing import Literal

import torch

from nest_nerfstudio.rasterizers.base import Rasterizer, RenderMode

RasterizerName = Literal["auto", "gsplat", "numba", "dense"]

__all__ = ["Rasterizer", "RasterizerName", "RenderMode", "create_rasterizer"]


def create_rasterizer(name: RasterizerName, device: torch.device | str) -> Rasterizer:
    """Make the rasterizer of that name; what it needs is imported only now.

    Args:
        name: "auto" takes gsplat on CUDA and numba elsewhere.
        device: where the Gaussians live.

    Returns:
        A rasterizer for tensors on `device`.

    Raises:
        ValueError: an unknown name, or a rasterizer that cannot draw on `device`.
        RuntimeError: gsplat was asked for and there is no CUDA.
    """
    kind = torch.device(device).type
    if name == "auto":
        name = "gsplat" if kind == "cuda" else "numba"
    if name == "dense":
        from nest_nerfstudio.rasterizers.dense import DenseRasterizer

        return DenseRasterizer()
    if name == "numba":
        if kind != "cpu":
            raise ValueError(f'rasterizer "numba" draws on the CPU, not on {kind}; use "gsplat" or "auto"')
        from nest_nerfstudio.rasterizers.numba_cpu import NumbaRasterizer

        return NumbaRasterizer()
    if name == "gsplat":
        if kind != "cuda":
            raise ValueError(f'rasterizer "gsplat" draws on CUDA, not on {kind}; use "numba" or "auto"')
        from nest_nerfstudio.rasterizers.gsplat_cuda import GsplatRasterizer

        return GsplatRasterizer()
    raise ValueError(f'unknown rasterizer "{name}"; there are "auto", "gsplat", "numba" and "dense"')
