"""Rasterizers: one interface, `Rasterizer`, and three implementations that give the same images."""

from __future__ import annotations

from typing import Literal

import torch

from nest_nerfstudio.rasterizers.base import Rasterizer, RenderMode

RasterizerName = Literal["auto", "gsplat", "numba", "dense"]

__all__ = ["Rasterizer", "RasterizerName", "RenderMode", "create_rasterizer"]


def create_rasterizer(name: RasterizerName, device: torch.device | str) -> Rasterizer:
    """Create a rasterizer; its dependencies are imported only now.

    Args:
        name: "gsplat" (CUDA), "numba" (CPU), "dense" (slow reference, any device), or "auto": gsplat on CUDA
            and numba elsewhere.
        device: device of the Gaussians.

    Returns:
        A rasterizer for tensors on `device`.

    Raises:
        ValueError: unknown name, or the rasterizer does not run on `device`.
        RuntimeError: "gsplat" without a CUDA device.
    """
    kind = torch.device(device).type
    if name == "auto":
        name = "gsplat" if kind == "cuda" else "numba"
    if name == "dense":
        from nest_nerfstudio.rasterizers.dense import DenseRasterizer

        return DenseRasterizer()
    if name == "numba":
        if kind != "cpu":
            raise ValueError(f'rasterizer "numba" runs on the CPU, not on {kind}; use "gsplat" or "auto"')
        from nest_nerfstudio.rasterizers.numba_cpu import NumbaRasterizer

        return NumbaRasterizer()
    if name == "gsplat":
        if kind != "cuda":
            raise ValueError(f'rasterizer "gsplat" runs on CUDA, not on {kind}; use "numba" or "auto"')
        from nest_nerfstudio.rasterizers.gsplat_cuda import GsplatRasterizer

        return GsplatRasterizer()
    raise ValueError(f'unknown rasterizer "{name}"; choose "auto", "gsplat", "numba" or "dense"')
