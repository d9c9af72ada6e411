"""The reference rasterizer: every rule in plain differentiable torch; slow, readable, any float type."""

from __future__ import annotations

from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.geometry.sh import sh_basis
from nest_nerfstudio.rasterizers.base import Rasterizer, RenderMode
from nest_nerfstudio.rasterizers.checks import check_inputs, resolve_sh_degree
from nest_nerfstudio.rasterizers.constants import ALPHA_MAX, ALPHA_MIN, EPS2D, T_MIN, TILE
from nest_nerfstudio.types import Gaussians, Rendering


class Camera(NamedTuple):
    """One pinhole camera.

    Attributes:
        viewmat: world to camera, OpenCV axes.
        K: intrinsics, pixels.
        width: image width, pixels.
        height: image height, pixels.
        near: smallest camera-space z that is rendered, world units.
        far: largest camera-space z that is rendered, world units.
    """

    viewmat: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]
    width: int
    height: int
    near: float
    far: float


class Splats(NamedTuple):
    """N Gaussians projected onto the image plane of one camera.

    Attributes:
        means2d: centres, pixels.
        conics: inverse covariance [[a, b], [b, c]] as (a, b, c), pixels⁻².
        radii: half the side of the square around the centre that is rasterized, pixels.
        depths: camera-space z, world units.
        compensations: √(det Σ / det(Σ + 0.3 I)), the factor by which antialiasing reduces the opacity.
    """

    means2d: Float[Tensor, "n 2"]
    conics: Float[Tensor, "n 3"]
    radii: Float[Tensor, " n"]
    depths: Float[Tensor, " n"]
    compensations: Float[Tensor, " n"]


@final
class DenseRasterizer(Rasterizer):
    """Renders tile by tile with torch alone, gradients by autograd; for tests and small scenes."""

    name = "dense (reference)"

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
        check_inputs(gaussians, viewmats, Ks, width, height, backgrounds)
        degree = resolve_sh_degree(gaussians, sh_degree)
        if backgrounds is None:
            backgrounds = viewmats.new_zeros(len(viewmats), 3)
        cameras = [
            Camera(viewmat, K, width, height, near_plane, far_plane)
            for viewmat, K in zip(viewmats, Ks, strict=True)
        ]
        with torch.no_grad():
            indices = [_visible(gaussians, camera, degree) for camera in cameras]
        visible = [gaussians.select(index) for index in indices]
        splats = [project(g, camera) for g, camera in zip(visible, cameras, strict=True)]
        n = len(gaussians)
        means2d = torch.stack([_scatter(s.means2d, i, n) for s, i in zip(splats, indices, strict=True)])
        info = {
            "means2d": means2d,
            "radii": torch.stack(
                [_scatter(s.radii, i, n) for s, i in zip(splats, indices, strict=True)]
            ).int(),
            "depths": torch.stack([_scatter(s.depths, i, n) for s, i in zip(splats, indices, strict=True)]),
            "width": width,
            "height": height,
            "n_cameras": len(cameras),
            "gaussian_ids": None,
        }
        totals = torch.zeros_like(means2d) if absgrad else None
        if totals is not None:
            means2d.absgrad = totals  # type: ignore[attr-defined]
        images = []
        for c, (g, s, index) in enumerate(zip(visible, splats, indices, strict=True)):
            s = s._replace(means2d=means2d[c, index])
            opacities = g.opacities * s.compensations if antialiased else g.opacities
            features = torch.cat([shade(g, cameras[c], degree), s.depths[:, None]], -1)
            total = None if totals is None else (totals[c], index)
            images.append(composite(s, opacities, features, width, height, total))
        color, alpha = (torch.stack(x) for x in zip(*images, strict=True))
        rgb = color[..., :3] + (1 - alpha) * backgrounds[:, None, None]
        depth = None if render_mode == "RGB" else color[..., 3:]
        if render_mode == "RGB+ED":
            depth = color[..., 3:] / alpha.clamp(min=1e-10)
        return Rendering(rgb, alpha, depth, info)


def project(gaussians: Gaussians, camera: Camera) -> Splats:
    """Project Gaussians by EWA splatting: Σ₂D = P Pᵀ with P = J W R S (arXiv 2308.04079, Eq. 5).

    J is the Jacobian of the pinhole projection, with x/z and y/z clamped to 1.3 times the field of view (the
    means are not), W the rotation of the camera, R and S rotation and scales of the Gaussian.

    Args:
        gaussians: Gaussians in the world frame.
        camera: pinhole camera.

    Returns:
        The Gaussians on the image plane.
    """
    width, height = camera.width, camera.height
    (fx, _, cx), (_, fy, cy) = camera.K[0], camera.K[1]
    rotation, translation = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    x, y, z = (gaussians.means @ rotation.T + translation).unbind(-1)
    margin_x, margin_y = 0.3 * 0.5 * width / fx, 0.3 * 0.5 * height / fy
    slope_x = torch.clamp(x / z, -(cx / fx + margin_x), (width - cx) / fx + margin_x)
    slope_y = torch.clamp(y / z, -(cy / fy + margin_y), (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    J = torch.stack([fx / z, zero, -fx * slope_x / z, zero, fy / z, -fy * slope_y / z], -1).reshape(-1, 2, 3)
    # Not `quat_normalize`: a zero quaternion must give NaN, so that the Gaussian is culled.
    quats = gaussians.quats / gaussians.quats.norm(dim=-1, keepdim=True)
    P = J @ rotation @ (quat_to_rotmat(quats) * gaussians.scales[:, None, :])
    p0, p1 = P.unbind(1)
    a, b, c = (p0 * p0).sum(-1), (p0 * p1).sum(-1), (p1 * p1).sum(-1)
    # Lagrange's identity avoids the cancellation in a c - b² and in the blurred determinant.
    det_sharp = torch.linalg.cross(p0, p1).square().sum(-1)
    det = det_sharp + EPS2D * (a + c) + EPS2D**2
    a, c = a + EPS2D, c + EPS2D
    half = (a + c) / 2
    radii = torch.ceil(3 * torch.sqrt(half + torch.sqrt(torch.clamp(half**2 - det, min=0.01))))
    return Splats(
        means2d=torch.stack([fx * x / z + cx, fy * y / z + cy], -1),
        conics=torch.stack([c, -b, a], -1) / det[:, None],
        radii=radii.detach(),
        depths=z,
        compensations=_GuardedSqrt.apply(det_sharp / det),
    )


def shade(gaussians: Gaussians, camera: Camera, degree: int) -> Float[Tensor, "n 3"]:
    """View-dependent colour max(0, Σ_i sh_i Y_i(d) + 0.5), d the direction from the camera to the Gaussian.

    Args:
        gaussians: Gaussians in the world frame.
        camera: the camera.
        degree: highest degree of the spherical harmonics to use.

    Returns:
        RGB, not clamped above.
    """
    centre = torch.inverse(camera.viewmat)[:3, 3]
    basis = sh_basis(degree, F.normalize(gaussians.means - centre, dim=-1))
    return torch.clamp_min((basis[..., None] * gaussians.sh[:, : basis.shape[-1]]).sum(1) + 0.5, 0.0)


def composite(
    splats: Splats,
    opacities: Float[Tensor, " n"],
    features: Float[Tensor, "n k"],
    width: int,
    height: int,
    absgrad: tuple[Tensor, Tensor] | None = None,
) -> tuple[Float[Tensor, "h w k"], Float[Tensor, "h w 1"]]:
    """Composite Gaussians front to back: Σ_i f_i α_i Π_{j<i} (1 − α_j) (arXiv 2308.04079, Eq. 3).

    Args:
        splats: Gaussians on the image plane.
        opacities: opacity of each Gaussian in this camera.
        features: values to composite: colour and depth.
        width: image width, pixels.
        height: image height, pixels.
        absgrad: tensor to which Σ_pixels |∂L/∂means2d| is added, and its rows for `splats`.

    Returns:
        features: composited without background.
        alpha: accumulated opacity.
    """
    order = torch.argsort(splats.depths.detach(), stable=True)
    reach = (splats.radii / TILE)[:, None]
    first = torch.floor(splats.means2d.detach() / TILE - reach)
    last = torch.ceil(splats.means2d.detach() / TILE + reach)
    rows = []
    for y0 in range(0, height, TILE):
        row = []
        for x0 in range(0, width, TILE):
            tile = torch.tensor([x0 // TILE, y0 // TILE], device=first.device)
            index = order[((first <= tile) & (tile < last)).all(-1)[order]]
            size = min(TILE, height - y0), min(TILE, width - x0)
            target = None if absgrad is None else (absgrad[0], absgrad[1][index])
            row.append(_tile(splats, opacities, features, index, x0, y0, *size, target))
        rows.append(torch.cat(row, 1))
    image = torch.cat(rows, 0)
    return image[..., :-1], image[..., -1:]


def _tile(
    splats: Splats,
    opacities: Tensor,
    features: Tensor,
    index: Tensor,
    x0: int,
    y0: int,
    rows: int,
    cols: int,
    absgrad: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Features and alpha of a tile's pixels, [rows, cols, k + 1]; `index`: its Gaussians, front to back."""
    like = {"dtype": features.dtype, "device": features.device}
    y, x = torch.meshgrid(torch.arange(rows, **like), torch.arange(cols, **like), indexing="ij")
    pixels = torch.stack([x + (x0 + 0.5), y + (y0 + 0.5)], -1).reshape(-1, 1, 2)
    means2d = _PerPixel.apply(splats.means2d[index], len(pixels), absgrad)
    dx, dy = (pixels - means2d).unbind(-1)
    a, b, c = splats.conics[index].unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = torch.clamp(opacities[index] * torch.exp(-sigma), max=ALPHA_MAX)
    alpha = torch.where((sigma >= 0) & (alpha >= ALPHA_MIN), alpha, 0.0)
    # Transmittance decreases, so all Gaussians behind the first one that fails the test fail it too.
    after = torch.cumprod(1 - alpha, -1)
    alpha = torch.where(after > T_MIN, alpha, 0.0)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], -1)
    weights = alpha * before
    image = torch.cat([weights @ features[index], weights.sum(-1, keepdim=True)], -1)
    return image.reshape(rows, cols, -1)


def _visible(gaussians: Gaussians, camera: Camera, degree: int) -> Tensor:
    """Indices of the Gaussians that a camera renders: finite, within near and far, square meets the image."""
    splats = project(gaussians, camera)
    (x, y), r, z = splats.means2d.unbind(-1), splats.radii, splats.depths
    colors = shade(gaussians, camera, degree)
    sh = gaussians.sh[:, : (degree + 1) ** 2].flatten(1)
    finite = torch.isfinite(torch.cat([splats.conics, colors, sh, gaussians.opacities[:, None]], -1)).all(-1)
    finite &= r < 1e9
    in_range = (z >= camera.near) & (z <= camera.far) & (z > 0)
    in_image = (x + r > 0) & (x - r < camera.width) & (y + r > 0) & (y - r < camera.height)
    return torch.nonzero(finite & in_range & in_image)[:, 0]


def _scatter(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Scatter values to the rows `index` of n rows; the others are zero."""
    return values.new_zeros(n, *values.shape[1:]).index_copy(0, index, values)


class _GuardedSqrt(torch.autograd.Function):
    """√x with the gradient 1 / (2 (√x + 1e-6)), as in gsplat: finite at 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        root = x.sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return 0.5 * grad / (root + 1e-6)


class _PerPixel(torch.autograd.Function):
    """Expands the means to all pixels, so that absolute gradients can be summed before they cancel."""

    @staticmethod
    def forward(ctx: Any, means2d: Tensor, pixels: int, absgrad: tuple[Tensor, Tensor] | None) -> Tensor:
        ctx.absgrad = absgrad
        return means2d.expand(pixels, -1, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        if ctx.absgrad is not None:
            total, index = ctx.absgrad
            total.index_add_(0, index, grad.abs().sum(0))
        return grad.sum(0), None, None
