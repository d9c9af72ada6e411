"""The interface of all rasterizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from nest_nerfstudio.types import Gaussians, Rendering

RenderMode = Literal["RGB", "RGB+D", "RGB+ED"]


class Rasterizer(ABC):
    """Renders Gaussians by gsplat 1.4.0's rules; all implementations give the same images and gradients.

    Differentiable in all fields of `Gaussians`, in `viewmats` and in `backgrounds`; not in `Ks`.
    """

    name: str
    """Name for log lines."""

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
        """Render one set of Gaussians from C cameras.

        Args:
            gaussians: Gaussians in the world frame.
            viewmats: world to camera, OpenCV axes.
            Ks: pinhole intrinsics, pixels.
            width: image width, pixels.
            height: image height, pixels.
            render_mode: "RGB" alone, or with accumulated ("RGB+D") or expected ("RGB+ED") camera-space z.
            sh_degree: highest degree of `gaussians.sh` to use; None uses all coefficients.
            backgrounds: background colour of each camera; None is black. The background's depth is 0.
            near_plane: nearer Gaussians are culled; camera-space z, world units.
            far_plane: farther Gaussians are culled; camera-space z, world units.
            antialiased: scale opacities by √(det Σ₂D / det(Σ₂D + 0.3 I)) (Mip-Splatting, arXiv 2311.16493).
            absgrad: also sum |∂L/∂means2d| over the pixels, in `info["means2d"].absgrad` after the backward
                pass (AbsGS, arXiv 2404.10484).

        Returns:
            The images. `info` has gsplat's keys for densification; `info["means2d"]` is part of the graph, so
            that `retain_grad` works on it.

        Raises:
            ValueError: shapes do not fit together, or tensors are not on a device that it can use.
        """
