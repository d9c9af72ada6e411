"""The typed values that travel between stages: one dataclass per arrow of the design.

images → `Views` → h_φ → `SceneLatent` → Φ_t, f_θ → `Gaussians` → π → `Rendering`

Frames: the world is right-handed with z up. Cameras are OpenCV world-to-camera matrices (`viewmats`).
Quaternions are wxyz and unit. Time is scaled so that the observed clip spans [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.geometry.se3 import Pose, se3_compose
from nest_nerfstudio.geometry.sh import rotate_sh


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

    def select(self, index: slice | Bool[Tensor, " v"] | Int[Tensor, " m"]) -> Views:
        """Some of them, or all in another order."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{k: v[index] for k, v in parts.items() if isinstance(v, Tensor)})

    def move(self, pose: Pose) -> Views:
        """The cameras moved by g, computed in double precision; of a scene moved too they show the same."""
        moved = torch.eye(4, dtype=torch.float64, device=self.viewmats.device)
        moved[:3, :3], moved[:3, 3] = quat_to_rotmat(pose[0].double()), pose[1].double()
        viewmats = self.viewmats.double() @ torch.linalg.inv(moved)
        return replace(self, viewmats=viewmats.to(self.viewmats))


@dataclass(frozen=True)
class Points:
    """A coloured point cloud.

    Attributes:
        positions: world units.
        rgb: in [0, 1].
    """

    positions: Float[Tensor, "n 3"]
    rgb: Float[Tensor, "n 3"]

    def __len__(self) -> int:
        return self.positions.shape[0]


@dataclass(frozen=True)
class SunSky:
    """A light: a sun and a sky of one colour.

    Attributes:
        direction: along the sunlight's travel, world frame, any length > 0.
        sun: irradiance of the sun on a surface that faces it.
        ambient: radiance of the sky.
    """

    direction: tuple[float, float, float] = (-0.3, 0.5, -1.0)
    sun: float = 3.0
    ambient: float = 0.6


@dataclass(frozen=True)
class Edit:
    """What a state of a scene differs in from its base; by default in nothing.

    Attributes:
        light: the light it stands in; None where it is not known.
        hue: shift of every material's hue, fraction of a turn.
        yaw: turn of the object about z, radians.
        translate: shift of the object, world units, after its turn.
        stretch: factors along the object's own x, y, z, before its turn.
    """

    light: SunSky | None = SunSky()
    hue: float = 0.0
    yaw: float = 0.0
    translate: tuple[float, float, float] = (0.0, 0.0, 0.0)
    stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def differences(self, other: Edit) -> list[str]:
        """Names of what differs between two states: some of light, hue, yaw, translate, stretch."""
        return [part.name for part in fields(self) if getattr(self, part.name) != getattr(other, part.name)]


@dataclass(frozen=True)
class SceneSample:
    """What one training step sees of one scene.

    Attributes:
        name: of the scene.
        category: of the scene.
        context: pictures of one state, for the encoder.
        edit: of that state.
        targets: pictures of one or more states, none of them in `context`.
    """

    name: str
    category: str
    context: Views
    edit: Edit
    targets: tuple[tuple[Edit, Views], ...]


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
        return round(self.sh.shape[1] ** 0.5) - 1

    def move(self, pose: Pose) -> Gaussians:
        """All of them moved by g, spherical harmonics included."""
        quats, means = se3_compose(pose, (self.quats, self.means))
        return replace(self, means=means, quats=quats, sh=rotate_sh(self.sh, quat_to_rotmat(pose[0])))

    def select(self, index: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> Gaussians:
        """Some of them."""
        return Gaussians(*(getattr(self, part.name)[index] for part in fields(self)))


@dataclass(frozen=True)
class Rendering:
    """C rendered pictures.

    Attributes:
        rgb: colour over the background; not clamped above.
        alpha: accumulated opacity in [0, 1].
        depth: camera-space z in world units, accumulated ("D") or expected ("ED"); None unless asked for.
        info: what gsplat's densification strategies read: `means2d` [C, N, 2] (in the autograd graph),
            `radii` [C, N], `depths` [C, N], `width`, `height`, `n_cameras`, `gaussian_ids` (None: not
            packed).
    """

    rgb: Float[Tensor, "c h w 3"]
    alpha: Float[Tensor, "c h w 1"]
    depth: Float[Tensor, "c h w 1"] | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MotionCode:
    """What an ODE needs to move a scene; every part is invariant under SE(3).

    Attributes:
        start: state z(0) of the scene, where its trajectory begins.
        token_codes: how each token answers to a state that is learned freely.
        token_modes: how it answers to that of the ODE, the linear map from (z, 1) to its twist.
        scene_code: tells scenes apart where many share one vector field; empty for a single scene.
        time: clip time at which the poses of the latent stand.
    """

    start: Float[Tensor, " d"]
    token_codes: Float[Tensor, "k e"]
    token_modes: Float[Tensor, "k 6 m"]
    scene_code: Float[Tensor, " c"]
    time: Float[Tensor, ""]


@dataclass(frozen=True)
class SceneLatent:
    """Z: a scene as a set of K posed tokens, a light and a motion code.

    The group (SE(3)^K ⋊ S_K) × SO(3)_light × ℝ_time acts on it as a direct product, each factor on its own
    part only: a disentangled representation in the sense of Higgins et al., arXiv 1812.02230. The methods
    below are these actions. They are pure: each returns a new latent.

    Attributes:
        quats: rotation of each token, wxyz, token frame to world.
        translations: origin of each token, world units.
        shape: geometry code of each token, invariant.
        appearance: albedo and material code of each token, invariant.
        light: real SH of the environment light, degree ≤ 2, gsplat's order, per RGB channel, world axes.
        motion: start of the trajectory and what turns its state into poses.
    """

    quats: Float[Tensor, "k 4"]
    translations: Float[Tensor, "k 3"]
    shape: Float[Tensor, "k s"]
    appearance: Float[Tensor, "k a"]
    light: Float[Tensor, "3 9"]
    motion: MotionCode

    def __len__(self) -> int:
        return self.translations.shape[0]

    def move(self, pose: Pose, tokens: Tensor | None = None) -> SceneLatent:
        """Move objects under a light that stays: T_k → g·T_k.

        Args:
            pose: g as (quats [4] wxyz, translations [3]), world frame.
            tokens: bool mask or indices of the tokens to move; None moves all.
        """
        quats, translations = se3_compose(pose, (self.quats, self.translations))
        if tokens is not None:
            chosen = torch.zeros(len(self), dtype=torch.bool, device=self.quats.device)
            chosen[tokens] = True
            quats = torch.where(chosen[:, None], quats, self.quats)
            translations = torch.where(chosen[:, None], translations, self.translations)
        return replace(self, quats=quats, translations=translations)

    def turn_world(self, pose: Pose) -> SceneLatent:
        """Turn scene and light together by g; seen from cameras turned by g nothing changes."""
        return self.move(pose).relight(quat_to_rotmat(pose[0]))

    def relight(self, rotation: Float[Tensor, "3 3"], gain: float = 1.0) -> SceneLatent:
        """Turn the environment light by a rotation matrix and scale it."""
        light = rotate_sh(self.light.mT, rotation).mT * gain
        return replace(self, light=light)

    def permute(self, order: Int[Tensor, " k"]) -> SceneLatent:
        """Reorder the tokens."""
        return self._index_tokens(order)

    def select(self, mask: Bool[Tensor, " k"]) -> SceneLatent:
        """Keep the tokens where `mask` is true: an object, or all but one."""
        return self._index_tokens(mask)

    def at(self, time: Float[Tensor, ""], flow: Callable[[SceneLatent, Tensor], SceneLatent]) -> SceneLatent:
        """The scene at another time: Φ_t·Z, for a flow such as a `Dynamics`."""
        return flow(self, time)

    def _index_tokens(self, index: Tensor) -> SceneLatent:
        return replace(
            self,
            quats=self.quats[index],
            translations=self.translations[index],
            shape=self.shape[index],
            appearance=self.appearance[index],
            motion=replace(
                self.motion,
                token_codes=self.motion.token_codes[index],
                token_modes=self.motion.token_modes[index],
            ),
        )
