"""What our models have in common: they draw Gaussians, for training and for eyes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.cameras import ray_lengths
from nest_nerfstudio.geometry.sh import MAX_DEGREE
from nest_nerfstudio.models.metrics import ImageMetrics
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.rasterizers.base import RenderMode
from nest_nerfstudio.types import Gaussians, Rendering, Views
from nest_nerfstudio.viewer.base import SceneControls


@dataclass
class GaussianModelConfig(ModelConfig):
    """Settings of all models that draw Gaussians."""

    _target: type = field(default_factory=lambda: GaussianModel)
    enable_collider: bool = False
    rasterizer: Literal["auto", "gsplat", "numba", "dense"] = "auto"
    """auto: gsplat on CUDA, numba on a CPU."""
    antialiased: bool = False
    """Mip-Splatting's opacity compensation."""


class GaussianModel(Model):
    """Draws Gaussians with one rasterizer, inside nerfstudio's crop box.

    Outputs when shown: "rgb"; "accumulation"; "depth", distance along the ray in world units, as nerfstudio's
    viewer expects.
    """

    config: GaussianModelConfig
    viewer_controls: SceneControls

    def populate_modules(self) -> None:
        super().populate_modules()
        self.metrics = ImageMetrics()
        self._rasterizer: Any = None
        self._crop: OrientedBox | None = None

    @torch.no_grad()
    def get_outputs_for_camera(
        self, camera: Cameras, obb_box: OrientedBox | None = None
    ) -> dict[str, Tensor]:
        """Draw one camera.

        Args:
            camera: a single camera.
            obb_box: draw only what is inside this box.
        """
        self._crop = obb_box
        try:
            return cast(dict[str, Tensor], self.get_outputs(camera))
        finally:
            self._crop = None

    def _shown(self, gaussians: Gaussians, views: Views, backdrop: Tensor) -> dict[str, Tensor]:
        """The first view's outputs for eyes, and the background that is behind them."""
        rendering = self._rasterize(self._cropped(gaussians), views, backdrop, "RGB+ED")
        assert rendering.depth is not None
        depth = rendering.depth[0] * ray_lengths(views.Ks, views.width, views.height)[0]
        nothing = self.viewer_controls.empty_depth or float(depth.max())
        return {
            "rgb": rendering.rgb[0].clamp(0, 1),
            "accumulation": rendering.alpha[0],
            "depth": torch.where(rendering.alpha[0] > 0, depth, nothing),
            "background": backdrop.expand(views.height, views.width, 3),
        }

    def _rasterize(
        self, gaussians: Gaussians, views: Views, background: Tensor, mode: RenderMode
    ) -> Rendering:
        if self._rasterizer is None:
            self._rasterizer = create_rasterizer(self.config.rasterizer, self.device)
            CONSOLE.log(f"Rasterizer: {self._rasterizer.name}.")
        return self._rasterizer(
            gaussians,
            views.viewmats,
            views.Ks,
            views.width,
            views.height,
            render_mode=mode,
            sh_degree=min(gaussians.sh_degree, self._sh_degree()),
            backgrounds=background.expand(len(views), 3),
            antialiased=self.config.antialiased,
        )

    def _sh_degree(self) -> int:
        """Highest degree of colour to draw, of those that Gaussians have."""
        return MAX_DEGREE

    def _cropped(self, gaussians: Gaussians) -> Gaussians:
        if self._crop is None:
            return gaussians
        return gaussians.select(self._crop.within(gaussians.means))

    def get_image_metrics_and_images(self, outputs, batch):  # type: ignore[override]
        target = over_background(batch["image"].to(self.device), outputs["background"])
        images = {"img": torch.cat([target, outputs["rgb"]], 1), "accumulation": outputs["accumulation"]}
        return self.metrics(outputs["rgb"], target), images

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """The picture with straight alpha, for renders over another background."""
        alpha = outputs["accumulation"]
        color = outputs[output_name] - outputs["background"] * (1 - alpha)
        return torch.cat([(color / alpha.clamp_min(1e-6)).clamp(0, 1), alpha], -1)


def over_background(image: Tensor, background: Tensor) -> Tensor:
    """A straight-alpha image [..., 4] over a background; an image without alpha as it is."""
    if image.shape[-1] == 3:
        return image
    return image[..., :3] * image[..., 3:] + background * (1 - image[..., 3:])


def composite(views: Views, background: Tensor) -> Tensor:
    """Pictures [v, h, w, 3] over a background; those without alpha as they are."""
    assert views.images is not None
    if views.alphas is None:
        return views.images
    return over_background(torch.cat([views.images, views.alphas], -1), background)
