"""The typed values that travel between stages: one dataclass per arrow of the design.

images → `Views` → h_φ → `SceneLatent` → Φ_t, f_θ → `Gaussians` → π → `Rendering`

Frames: the world is right-handed with z up. Cameras are OpenCV world-to-camera matrices (`viewmats`).
Quaternions are wxyz and unit. Time is scaled so that the observed clip spans [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Views:
    """V posed pictures of a scene, all of one size.

    Attributes:
        viewmats: world to camera, OpenCV axes (x right, y down, z forward).
        Ks: pinhole intrinsics in pixels; the centre of the top-left pixel is at (0.5, 0.5).
        width: image width in pixels.
        height: image height in pixels.
        times: clip time of each view; None where the scene does not move.
        images: RGB in [0, 1].
        alphas: coverage in [0, 1].
        depths: camera-space z in world units; 0 where unknown.
    """

    viewmats: Float[Tensor, "v 4 4"]
    Ks: Float[Tensor, "v 3 3"]
    width: int
    height: int
    times: Float[Tensor, " v"] | None = None
    images: Float[Tensor, "v h w 3"] | None = None
    alphas: Float[Tensor, "v h w 1"] | None = None
    depths: Float[Tensor, "v h w 1"] | None = None

    def __len__(self) -> int:
        return self.viewmats.shape[0]


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic Gaussians in one frame, with activated (ready to render) values.

    Attributes:
        means: centres, world units.
        quats: unit quaternions, wxyz; local axes to world.
        scales: standard deviations along the local axes, world units, > 0.
        opacities: in [0, 1].
        sh: real spherical harmonics coefficients per RGB channel in gsplat's order and sign,
            k = (degree + 1)²; colour = max(0, Σ_i sh_i Y_i(direction) + 0.5).
    """

    means: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]
    scales: Float[Tensor, "n 3"]
    opacities: Float[Tensor, " n"]
    sh: Float[Tensor, "n k 3"]

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the stored spherical harmonics."""
        return int(round(self.sh.shape[1] ** 0.5)) - 1


@dataclass(frozen=True)
class Rendering:
    """C rendered pictures.

    Attributes:
        rgb: colour over the background; not clamped above.
        alpha: accumulated opacity in [0, 1].
        depth: camera-space z in world units, accumulated ("D") or expected ("ED"); None unless asked for.
        info: what gsplat's densification strategies read: `means2d` [C, N, 2] (in the autograd graph),
            `radii` [C, N], `depths` [C, N], `width`, `height`, `n_cameras`, `gaussian_ids` (None: not packed).
    """

    rgb: Float[Tensor, "c h w 3"]
    alpha: Float[Tensor, "c h w 1"]
    depth: Float[Tensor, "c h w 1"] | None = None
    info: dict[str, Any] = field(default_factory=dict)
