"""What our models have in common: they decode latents into scenes and draw them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.cameras import position_in_path, ray_lengths, time_on_way
from nest_nerfstudio.dynamics.base import Dynamics
from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.edits.mixing import SharedMotion
from nest_nerfstudio.edits.scene_edit import EditError, SceneEdit
from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.geometry.color import expose
from nest_nerfstudio.geometry.sh import MAX_DEGREE, rgb_to_sh
from nest_nerfstudio.losses.images import image_losses, squared_error
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.latent_parameters import LatentParameters
from nest_nerfstudio.models.metrics import ImageMetrics
from nest_nerfstudio.models.runs import OtherScenes
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.rasterizers.base import RenderMode
from nest_nerfstudio.sight import Sight, sight_of
from nest_nerfstudio.types import Gaussians, Rendering, SceneLatent, Views
from nest_nerfstudio.viewer.base import SceneControls


@dataclass
class GaussianModelConfig(ModelConfig):
    """Settings of all models that draw Gaussians."""

    _target: type = field(default_factory=lambda: GaussianModel)
    enable_collider: bool = False
    rasterizer: Literal["auto", "gsplat", "numba", "dense"] = "auto"
    """Which rasterizer draws: gsplat (CUDA), numba (compiled for the CPU) or dense (slow reference); auto:
    gsplat on CUDA, numba on a CPU."""
    rasterize_mode: Literal["classic", "antialiased"] = "classic"
    """antialiased: compensate opacities for the size of a pixel, as Mip-Splatting."""
    background_color: Literal["auto", "random", "white", "black"] = "auto"
    """Background of the scene. auto: where images have alpha, random in training and white in renders; else
    black, or the colour that the data parser put behind its images."""
    ssim_lambda: float = 0.2
    """Weight of the SSIM term in the photometric loss; the rest is L1."""
    flow: LatentFlowConfig = field(default_factory=LatentFlowConfig)
    """The latent ODE that moves scenes."""
    edit: Path | None = None
    """JSON file with an edit (`nest_nerfstudio.edits.scene_edit.SceneEdit`) of the scenes that are shown,
    scored, rendered and exported; training does not see it."""
    playback_seconds: float = 3.0
    """Length of the clip, at 24 frames a second, in renders whose cameras have no time (ns-render
    interpolate), where it plays forwards and backwards; a path through the poses of one moving camera has
    the times of that camera."""
    fixed_time: float | None = None
    """Clip time that all cameras show when the scene is shown, scored or rendered, whatever their own;
    unset: each its own."""
    render_motion: bool = True
    """Also output the speed of the motion when rendering a scene that moves."""


class GaussianModel(Model):
    """Draws the scenes of latents with one rasterizer, inside nerfstudio's crop box.

    Outputs when shown: "rgb"; "accumulation"; "depth", distance along the ray in world units, as nerfstudio's
    viewer expects; of scenes that move also "motion", speed in world units per clip, and where they have a
    background that stands still "moving", 1 for what does not. A camera's `times` may
    lie outside [0, 1]; of cameras without, each shows the time of its frame in a path that plays the clip.
    """

    config: GaussianModelConfig
    field: Field
    flow: LatentFlow
    latent: LatentParameters  # of models of one scene
    viewer_controls: SceneControls
    is_trained_here: bool
    ways: Callable[[], list[Cameras]]
    has_alpha: Tensor
    image_background: Tensor

    def populate_modules(self) -> None:
        super().populate_modules()
        self.metrics = ImageMetrics()
        self._rasterizer: Any = None
        self._crop: OrientedBox | None = None
        self.is_trained_here, self.ways = False, list
        self._refused_edit = ""
        self.other_scenes = OtherScenes(self)
        self._edit = None if self.config.edit is None else SceneEdit.load(Path(self.config.edit))
        self.register_buffer("has_alpha", torch.tensor(True))
        self.register_buffer("image_background", torch.zeros(3))
        self.register_load_state_dict_post_hook(lambda module, _: module.forget_scenes())

    # ---------------------------------------------------------------- Z → R → Gaussians → pixels

    @abstractmethod
    def shown_scene(self, camera: Cameras | None = None) -> DecodedScene:
        """The scene that a camera shows; without one, the scene in the viewer."""

    @abstractmethod
    def forget_scenes(self, keep_latents: bool = False) -> None:
        """Decode scenes anew at their next use, as weights have changed, or only an edit (`keep_latents`)."""

    @property
    def edit(self) -> SceneEdit | None:
        """The edit of the scenes that are shown."""
        return self._edit

    @edit.setter
    def edit(self, edit: SceneEdit | None) -> None:
        self._edit = edit
        self.forget_scenes(keep_latents=True)

    def decode(
        self,
        latent: SceneLatent,
        dynamics: Dynamics,
        deform: Callable[[Gaussians, Tensor], Gaussians] | None = None,
    ) -> DecodedScene:
        """The scene of a latent under the model's edit; arguments as for `DecodedScene`.

        Raises:
            EditError: the scene cannot carry the edit; not while it trains, as it may later.
        """
        if self._edit is not None:
            try:
                edited = self._edit.apply(latent, self.field, self.other_scenes)
                _require_motion_code(latent, edited, dynamics)
                latent = edited
            except EditError as error:
                if not self.is_trained_here:
                    raise
                if str(error) != self._refused_edit:
                    CONSOLE.log(f"[yellow]Shown without its edit for now: {error}.")
                    self._refused_edit = str(error)
        return DecodedScene(latent, self.field, dynamics, deform)

    @property
    def shared_motion(self) -> SharedMotion | None:
        """What its prior knows of motion, for edits; None: nothing."""
        return None

    def latent_named(self, scene: str | None) -> SceneLatent:
        """Z of the scene of a name, without the model's edit; None: the only scene, which has no name.

        Raises:
            EditError: there is no such scene.
        """
        if scene is not None:
            raise EditError(f"there is no scene {scene!r} in a run of one scene; leave out `scene`")
        return self.latent()

    def view_losses(
        self, latent: SceneLatent, views: Views, background: Float[Tensor, " 3"]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Losses of a latent's renderings against images (`image_losses`), and their squared error."""
        return self.scene_losses(DecodedScene(latent, self.field, self.flow), views, background)

    def scene_losses(
        self, scene: DecodedScene, views: Views, background: Float[Tensor, " 3"]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As `view_losses`, of a scene that is decoded already."""
        mode = "RGB" if views.depths is None else "RGB+ED"
        rendering = self.draw(scene, views, background, mode)
        losses = image_losses(rendering, views, background, self.config.ssim_lambda)
        return losses, squared_error(rendering, views, background)

    def set_image_background(self, has_alpha: bool, color: Float[Tensor, " 3"] | None) -> None:
        """Say whether training images have alpha, and the colour that the parser put behind opaque ones."""
        self.has_alpha.fill_(has_alpha)
        if color is not None:
            self.image_background.copy_(color)

    def may_have_background(self, color: Float[Tensor, " 3"]) -> bool:
        """Whether a colour found behind opaque images can be the background, or is the one that is set."""
        given = {"white": 1.0, "black": 0.0}.get(self.config.background_color)
        return (
            self.config.background_color == "auto"
            if given is None
            else bool((color - given).abs().max() < 0.05)
        )

    def background(self, has_alpha: bool) -> Float[Tensor, " 3"]:
        """Background for images with or without alpha; in training it may be another one at every call."""
        color = self.config.background_color
        if self.training and (color == "random" or (color == "auto" and has_alpha)):
            return torch.rand(3, device=self.device)
        return self.shown_background(has_alpha)

    def shown_background(self, has_alpha: bool) -> Float[Tensor, " 3"]:
        """Background of renders of a scene whose images have, or do not have, alpha."""
        color = self.config.background_color
        if color in ("auto", "random") and not has_alpha:
            return self.image_background
        return torch.full((3,), float(color != "black"), device=self.device)

    def rasterize(
        self, gaussians: Gaussians, views: Views, background: Float[Tensor, " 3"], mode: RenderMode = "RGB"
    ) -> Rendering:
        """Draw Gaussians from all cameras of `views`, with their exposures."""
        if self._rasterizer is None:
            self._rasterizer = create_rasterizer(self.config.rasterizer, self.device)
            CONSOLE.log(f"Rasterizer: {self._rasterizer.name}.")
        rendering = self._rasterizer(
            gaussians,
            views.viewmats,
            views.Ks,
            views.width,
            views.height,
            render_mode=mode,
            sh_degree=min(gaussians.sh_degree, self._sh_degree()),
            backgrounds=background.expand(len(views), 3),
            antialiased=self.config.rasterize_mode == "antialiased",
        )
        if views.exposures is None:
            return rendering
        return replace(rendering, rgb=expose(rendering.rgb, rendering.alpha, background, views.exposures))

    def draw(
        self,
        scene: DecodedScene,
        views: Views,
        background: Float[Tensor, " 3"],
        mode: RenderMode = "RGB",
    ) -> Rendering:
        """Draw a scene from all cameras of `views`, for each at its time; at time 0 where there are none."""
        times = [0.0] if views.times is None or not scene.moves else views.times.unique().tolist()
        if len(times) == 1:
            return self.rasterize(scene.gaussians_at(times[0]), views, background, mode)
        assert views.times is not None
        singles = [views.select(slice(i, i + 1)) for i in range(len(views))]
        drawn = [
            self.rasterize(scene.gaussians_at(time), view, background, mode)
            for time, view in zip(views.times, singles, strict=True)
        ]
        depths = [one.depth for one in drawn if one.depth is not None]
        rgb, alpha = (torch.cat([getattr(one, name) for one in drawn]) for name in ("rgb", "alpha"))
        return Rendering(rgb, alpha, torch.cat(depths) if depths else None)

    def _sh_degree(self) -> int:
        """Highest degree of the colours to draw, of those that Gaussians have."""
        return MAX_DEGREE

    # ---------------------------------------------------------------- what is shown

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

    def get_outputs(self, camera: Any) -> dict[str, Any]:  # type: ignore[override]
        if not isinstance(camera, Cameras):
            raise TypeError(
                "Gaussians are drawn as whole images, not ray by ray. In place of ns-export's point clouds "
                "and meshes, `nest-export splat` writes the scene; ns-render works without "
                "--render-nearest-camera"
            )
        sight, scene = sight_of(camera.to(self.device)), self.shown_scene(camera)
        time = self._shown_time(camera, sight.views.times)
        gaussians = scene.gaussians_at(time)
        background = self.shown_background(self.shows_alpha())
        outputs = self._outputs(gaussians, sight, background)
        if scene.moves and self.viewer_controls.motion:
            outputs["motion"] = self._motion_image(scene, gaussians, sight, time)
            if scene.has_background:
                outputs["moving"] = self._painted(gaussians, scene.moving_shares(), sight)
        return outputs

    def shows_alpha(self) -> bool:
        """Whether the images of the scene that is shown have alpha."""
        return bool(self.has_alpha)

    def _outputs(
        self, gaussians: Gaussians, sight: Sight, background: Float[Tensor, " 3"]
    ) -> dict[str, Tensor]:
        """A camera's outputs for eyes, and the background behind them."""
        views = sight.views
        rendering = self.rasterize(self._cropped(gaussians), views, background, "RGB+ED")
        assert rendering.depth is not None
        rgb, alpha = sight.image(rendering.rgb), sight.image(rendering.alpha)
        distances = rendering.depth * ray_lengths(views.Ks, views.width, views.height)
        depth = sight.image(distances * rendering.alpha) / alpha.clamp_min(1e-10)
        nothing = self.viewer_controls.empty_depth or float(depth.max())
        return {
            "rgb": rgb.clamp(0, 1),
            "accumulation": alpha,
            "depth": torch.where(alpha > 0, depth, nothing),
            "background": background.expand_as(rgb),
        }

    def _motion_image(
        self, scene: DecodedScene, gaussians: Gaussians, sight: Sight, time: float, dt: float = 1 / 256
    ) -> Tensor:
        """Speed ‖dx/dt‖ drawn in place of colour, world units per clip, 0 where nothing is."""
        speed = (scene.gaussians_at(time + dt).means - gaussians.means).norm(dim=1, keepdim=True) / dt
        return self._painted(gaussians, speed, sight)

    def _painted(self, gaussians: Gaussians, values: Float[Tensor, "n 1"], sight: Sight) -> Tensor:
        """Values of Gaussians drawn in place of colour, 0 where nothing is."""
        painted = replace(gaussians, sh=rgb_to_sh(values.expand(-1, 3))[:, None])
        drawn = self.rasterize(self._cropped(painted), sight.views, values.new_zeros(3)).rgb
        return sight.image(drawn[..., :1])

    def _shown_time(self, camera: Cameras, times: Tensor | None) -> float:
        """Clip time that a camera shows."""
        if self.config.fixed_time is not None:
            return self.config.fixed_time
        return self._untimed(camera) if times is None else float(times[0])

    def _untimed(self, camera: Cameras) -> float:
        """Clip time of a camera that has none: that of one moving camera where its path goes through that
        one's poses, else its frame in a path that plays forwards and backwards."""
        for way in self.ways():
            time = time_on_way(camera, way)
            if time is not None:
                return time
        turns = position_in_path(camera) / (24 * self.config.playback_seconds)
        return 1 - abs(1 - turns % 2)

    def _cropped(self, gaussians: Gaussians) -> Gaussians:
        if self._crop is None:
            return gaussians
        return gaussians.select(self._crop.within(gaussians.means))

    # ---------------------------------------------------------------- scores

    def get_image_metrics_and_images(self, outputs, batch):  # type: ignore[override]
        image = batch["image"].to(self.device)
        rgb, alpha = image[..., :3], image[..., 3:]
        target = rgb if image.shape[-1] == 3 else rgb * alpha + outputs["background"] * (1 - alpha)
        images = {"img": torch.cat([target, outputs["rgb"]], 1), "accumulation": outputs["accumulation"]}
        mask = batch.get("mask")
        mask = None if mask is None else mask.to(self.device).float()
        return self.metrics(outputs["rgb"], target, mask), images

    def get_rgba_image(self, outputs: dict[str, Tensor], output_name: str = "rgb") -> Tensor:
        """The image with straight alpha, for renders over another background."""
        alpha = outputs["accumulation"]
        color = outputs[output_name] - outputs["background"] * (1 - alpha)
        return torch.cat([(color / alpha.clamp_min(1e-6)).clamp(0, 1), alpha], -1)


def _require_motion_code(latent: SceneLatent, edited: SceneLatent, dynamics: Dynamics) -> None:
    """EditError where an edit changes motion that is not in the latent: of a run before its hand-over."""
    if latent.motion.kind != "still" or dynamics.is_still(latent.motion):
        return
    if edited.motion.kind != "still" or edited.sizes is not None:
        raise EditError(
            "the motion of this scene is a free curve, which cannot be replaced or scaled; it can once the "
            "training log says that the ODE takes over"
        )
