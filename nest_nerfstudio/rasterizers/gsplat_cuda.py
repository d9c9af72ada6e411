"""The rasterizer for CUDA: gsplat behind our interface."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.host import to_one_radius
from nest_nerfstudio.rasterizers.base import Rasterizer, RenderMode
from nest_nerfstudio.rasterizers.checks import check_inputs, resolve_sh_degree
from nest_nerfstudio.types import Gaussians, Rendering


@final
class GsplatRasterizer(Rasterizer):
    """Renders with `gsplat.rasterization`; float32 on CUDA.

    Raises:
        RuntimeError: there is no CUDA device.
    """

    name = "gsplat (CUDA)"

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError(
                'rasterizer "gsplat" needs a CUDA device, but torch finds none; use "numba" or "auto"'
            )

    def __call__(
        self,
        gaussians: Gaussians,
        viewmats: Float[Tensor, "c 4 4"],
        Ks: Float[Tensor, "c 3 3"],
        width: int,
        height: int,
        *,
        render_mode: RenderMode = "RGB",
        sh_degree: int | None = None,
        backgrounds: Float[Tensor, "c 3"] | None = None,
        near_plane: float = 0.01,
        far_plane: float = 1e10,
        antialiased: bool = False,
        absgrad: bool = False,
    ) -> Rendering:
        """See `Rasterizer`."""
        from gsplat import rasterization

        check_inputs(gaussians, viewmats, Ks, width, height, backgrounds, device="cuda")
        image, alpha, info = rasterization(
            gaussians.means,
            gaussians.quats,
            gaussians.scales,
            gaussians.opacities,
            gaussians.sh,
            viewmats,
            Ks,
            width,
            height,
            near_plane=near_plane,
            far_plane=far_plane,
            sh_degree=resolve_sh_degree(gaussians, sh_degree),
            packed=False,
            backgrounds=backgrounds,
            render_mode=render_mode,
            absgrad=absgrad,
            rasterize_mode="antialiased" if antialiased else "classic",
        )
        depth = image[..., 3:] if render_mode != "RGB" else None
        return Rendering(image[..., :3], alpha, depth, to_one_radius(info))
