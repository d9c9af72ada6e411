"""π: Gaussians and cameras to pictures. The contract that every rasterizer keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.types import Gaussians, Rendering

RenderMode = Literal["RGB", "RGB+D", "RGB+ED"]


class Rasterizer(ABC):
    """Draws Gaussians as gsplat 1.4.0 does; every implementation gives the same picture and gradients.

    Differentiable in all fields of `Gaussians`, in `viewmats` and in `backgrounds`; not in `Ks`.
    """

    name: str
    """How the rasterizer calls itself in logs."""

    @abstractmethod
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
        """Draw one set of Gaussians from C cameras.

        Args:
            gaussians: what to draw, world frame.
            viewmats: world to camera, OpenCV axes.
            Ks: pinhole intrinsics in pixels.
            width: of the pictures, pixels.
            height: of the pictures, pixels.
            render_mode: "RGB" alone, or with accumulated ("RGB+D") or expected ("RGB+ED") camera-space z.
            sh_degree: highest degree of `gaussians.sh` to use; None uses all that is stored.
            backgrounds: colour behind everything; None is black. Depth lies over 0.
            near_plane: Gaussians nearer than this are left out, world units.
            far_plane: Gaussians farther than this are left out, world units.
            antialiased: scale opacities by √(det Σ₂D / det(Σ₂D + 0.3 I)) (Mip-Splatting, arXiv 2311.16493).
            absgrad: also sum |∂L/∂means2d| per pixel in `info["means2d"].absgrad` (AbsGS, arXiv 2404.10484).

        Returns:
            The pictures; `info["means2d"]` is part of the graph, so `retain_grad` works on it.

        Raises:
            ValueError: shapes that do not fit, or tensors on a device this rasterizer cannot use.
        """
