"""The typed values that travel between stages: one dataclass per arrow of the design.

images → `Views` → h_φ → `SceneLatent` → f_θ → `RiggedGaussians` → Φ_t, pose → `Gaussians` → π → `Rendering`

Frames: the world is right-handed with z up. Cameras are OpenCV world-to-camera matrices (`viewmats`).
Quaternions are wxyz and unit. Time is scaled so that the observed clip spans [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.geometry.se3 import Pose, se3_compose
from nest_nerfstudio.geometry.sh import rotate_sh


@dataclass(frozen=True)
class Views:
    """V posed images of a scene, all of one size.

    Attributes:
        viewmats: world to camera, OpenCV axes (x right, y down, z forward).
        Ks: pinhole intrinsics in pixels; the centre of the top-left pixel is at (0.5, 0.5).
        width: image width in pixels.
        height: image height in pixels.
        times: clip time of each view; None where the scene does not move.
        images: RGB in [0, 1].
        alphas: coverage in [0, 1].
        depths: camera-space z in world units; 0 where unknown.
        masks: 1 for the pixels to use, 0 for the others; None uses all.
        exposures: (A, b) of each image, which shows a colour c as A c + b; None: as it is.
    """

    viewmats: Float[Tensor, "v 4 4"]
    Ks: Float[Tensor, "v 3 3"]
    width: int
    height: int
    times: Float[Tensor, " v"] | None = None
    images: Float[Tensor, "v h w 3"] | None = None
    alphas: Float[Tensor, "v h w 1"] | None = None
    depths: Float[Tensor, "v h w 1"] | None = None
    masks: Float[Tensor, "v h w 1"] | None = None
    exposures: Float[Tensor, "v 3 4"] | None = None

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def select(self, index: slice | Bool[Tensor, " v"] | Int[Tensor, " m"]) -> Views:
        """Some of the views, or all in another order."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return replace(self, **{k: v[index] for k, v in parts.items() if isinstance(v, Tensor)})

    def to(self, device: torch.device | str) -> Views:
        """The same views on a device."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        moved = {k: v.to(device, non_blocking=True) for k, v in parts.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def over(self, background: Float[Tensor, " 3"]) -> Float[Tensor, "v h w 3"]:
        """The images over a background; those without alpha as they are."""
        assert self.images is not None
        if self.alphas is None:
            return self.images
        return self.images * self.alphas + background * (1 - self.alphas)

    def move(self, pose: Pose) -> Views:
        """The cameras moved by g, in double precision; they see a scene that is moved by g as before."""
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

    @property
    def log_scales(self) -> Float[Tensor, "n 3"]:
        """Logarithms of the scales, as splat files hold them; of float32's smallest normal number for 0."""
        return self.scales.clamp_min(torch.finfo(torch.float32).tiny).log()

    @property
    def opacity_logits(self) -> Float[Tensor, " n"]:
        """Logits of the opacities, as splat files hold them; those of 0 and 1 are finite."""
        return torch.logit(self.opacities, eps=1e-6)

    def move(self, pose: Pose) -> Gaussians:
        """All Gaussians moved by g, spherical harmonics included."""
        quats, means = se3_compose(pose, (self.quats, self.means))
        return replace(self, means=means, quats=quats, sh=rotate_sh(self.sh, quat_to_rotmat(pose[0])))

    def select(self, index: Bool[Tensor, " n"] | Int[Tensor, " m"]) -> Gaussians:
        """Some of the Gaussians."""
        return Gaussians(*(getattr(self, part.name)[index] for part in fields(self)))


@dataclass(frozen=True)
class Rendering:
    """C rendered images.

    Attributes:
        rgb: colour over the background; not clamped above.
        alpha: accumulated opacity in [0, 1].
        depth: camera-space z in world units, accumulated ("D") or expected ("ED"); None unless asked for.
        info: what gsplat's densification reads: `means2d` [C, N, 2] (in the autograd graph), `radii`
            and `depths` [C, N], `width`, `height`, `n_cameras`, `gaussian_ids` (None: not packed).
    """

    rgb: Float[Tensor, "c h w 3"]
    alpha: Float[Tensor, "c h w 1"]
    depth: Float[Tensor, "c h w 1"] | None = None
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """Surface reflectance of N Gaussians: what a light needs to shade them.

    Attributes:
        albedo: linear RGB.
        transfer: radiance transfer, real SH of degree ≤ 2 in gsplat's order, in the frame of the Gaussians at
            rest: outgoing radiance is albedo · (transfer · light) / π.
    """

    albedo: Float[Tensor, "n 3"]
    transfer: Float[Tensor, "n 9"]


@dataclass(frozen=True)
class RiggedGaussians:
    """R: a decoded scene, Gaussians at rest bound to tokens. It depends on Z's codes, and on no time.

    `fields.rig.pose` moves it: Gaussian n follows Σ_j weights[n, j] · T_k(t) · B_k⁻¹ with k = tokens[n, j].

    Attributes:
        rest: Gaussians in the reference frame of the bind poses: that of the world where B_k is the pose of
            token k at rest, the token's own where B_k is the identity. Where there is a material, shading
            replaces the coefficient of degree 0 in `sh`.
        bind_quats: rotation of B_k, wxyz.
        bind_translations: origin of B_k.
        tokens: rows of Z that each Gaussian follows.
        weights: their shares, ≥ 0, of sum one.
        material: what light shades; None where the colours are baked into `rest.sh`.
    """

    rest: Gaussians
    bind_quats: Float[Tensor, "k 4"]
    bind_translations: Float[Tensor, "k 3"]
    tokens: Int[Tensor, "n j"]
    weights: Float[Tensor, "n j"]
    material: Material | None = None

    def __len__(self) -> int:
        return len(self.rest)


@dataclass(frozen=True)
class TimeMap:
    """Which time of its own a scene shows at a clip time: speed · t + offset, in `loop` if there is one.

    Attributes:
        speed: negative runs backwards, 0 stands still.
        offset: in clips.
        loop: first and last own time of a span that repeats for ever; None: no loop.
        fade: part of the span before its end, in clips, over which poses blend into those before its start.
    """

    speed: float = 1.0
    offset: float = 0.0
    loop: tuple[float, float] | None = None
    fade: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speed) and math.isfinite(self.offset)):
            raise ValueError(f"speed and offset must be finite, not {self.speed} and {self.offset}")
        if self.loop is not None:
            start, end = self.loop
            if not (math.isfinite(end - start) and start < end and 0 <= self.fade <= end - start):
                raise ValueError(f"cannot loop from {start} to {end} with a fade of {self.fade}")

    def __call__(self, time: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Own time at a clip time."""
        own = self.speed * time + self.offset
        if self.loop is None:
            return own
        start, end = self.loop
        return start + (own - start) % (end - start)

    def after(self, inner: TimeMap) -> TimeMap:
        """The map of a scene that shows at t what this one shows at inner(t); `inner` must not loop."""
        return replace(self, speed=self.speed * inner.speed, offset=self.speed * inner.offset + self.offset)


MotionKind = Literal["still", "free", "cyclic"]
WORLD = -1  # in `SceneLatent.ids`: the world token, which no motion moves; its field keeps it last


@dataclass(frozen=True)
class MotionCode:
    """How a scene moves: where its latent ODE starts, and how each token answers to its state.

    The twist of token k at state z is modes[k] @ (z, 1): translation (world units), then rotation (radians),
    in the token's own frame. Before it the token drifts, as what travels does: T_k(t) =
    T_k · exp(t drift[k]) · exp(modes[k] @ (z(t), 1)). All parts are invariant under SE(3).

    Attributes:
        start: z(0).
        modes: linear map of (z, 1) to each token's twist.
        drift: twist of each token per clip; zero for what stays where it is.
        scene_code: which of many scenes this is, for a vector field that they share; empty for a single one.
        period: length of a cycle in clips, where `kind` is "cyclic".
        phase: shift along the cycle, as a fraction of it: z(0) is the state at phase · period.
        kind: "still"; "free", a vector field leads z; "cyclic", z turns at constant speed (an oscillator).
        time_map: which own time is shown at a clip time.
    """

    start: Float[Tensor, " d"]
    modes: Float[Tensor, "k 6 m"]
    drift: Float[Tensor, "k 6"]
    scene_code: Float[Tensor, " c"]
    period: Float[Tensor, ""]
    phase: Float[Tensor, ""]
    kind: MotionKind = "still"
    time_map: TimeMap = TimeMap()

    @staticmethod
    def still(num_tokens: int, like: Tensor, state_dim: int = 0, code_dim: int = 0) -> MotionCode:
        """The code of a scene that does not move."""
        start, code = like.new_zeros(state_dim), like.new_zeros(code_dim)
        modes, drift = like.new_zeros(num_tokens, 6, state_dim + 1), like.new_zeros(num_tokens, 6)
        return MotionCode(start, modes, drift, code, period=like.new_ones(()), phase=like.new_zeros(()))


@dataclass(frozen=True)
class SceneLatent:
    """Z: a scene as a set of K posed tokens, a light and a motion code.

    The group (SE(3)^K ⋊ S_K) × SO(3)_light × ℝ_time acts on it as a direct product, each factor on its own
    part only: a disentangled representation in the sense of Higgins et al., arXiv 1812.02230. The methods
    below are these actions. They are pure: each returns a new latent.

    Attributes:
        ids: which token of its field each row is, by which a field looks up what it keeps itself of a token.
        copies: which copy of the token each row is: 0 is the token itself, others come from `duplicate`.
        quats: rotation of each token at rest, wxyz, token frame to world.
        translations: origin of each token at rest, world units.
        geometry: geometry code of each token, invariant.
        appearance: colour code of each token, invariant; what it holds depends on the field.
        light: real SH of the environment light, degree ≤ 2, gsplat's order, per RGB channel, world axes.
        motion: how the tokens move.
        sizes: scale of what each token carries, relative to what its field decodes; None: 1 for all.
    """

    ids: Int[Tensor, " k"]
    copies: Int[Tensor, " k"]
    quats: Float[Tensor, "k 4"]
    translations: Float[Tensor, "k 3"]
    geometry: Float[Tensor, "k s"]
    appearance: Float[Tensor, "k a"]
    light: Float[Tensor, "3 9"]
    motion: MotionCode
    sizes: Float[Tensor, " k"] | None = None

    def __len__(self) -> int:
        return self.translations.shape[0]

    @property
    def poses(self) -> Pose:
        """Poses of the tokens at rest: (quats [K, 4] wxyz, translations [K, 3])."""
        return self.quats, self.translations

    def move(self, pose: Pose, tokens: Tensor | None = None) -> SceneLatent:
        """Move objects under a light that stays: T_k → g·T_k.

        Args:
            pose: g as (quats [4] wxyz, translations [3]), world frame.
            tokens: bool mask or indices of the tokens to move; None moves all.
        """
        quats, translations = se3_compose(pose, self.poses)
        if tokens is not None:
            chosen = self._mask(tokens)[:, None]
            quats = torch.where(chosen, quats, self.quats)
            translations = torch.where(chosen, translations, self.translations)
        return replace(self, quats=quats, translations=translations)

    def scale(self, factor: float, centre: Float[Tensor, " 3"], tokens: Tensor) -> SceneLatent:
        """Scale objects about a point, with the translations of their motion.

        Args:
            factor: > 0.
            centre: the point that stays, world frame.
            tokens: bool mask or indices of the tokens to scale.
        """
        old = torch.ones_like(self.translations[:, 0]) if self.sizes is None else self.sizes
        factors = torch.where(self._mask(tokens), old.new_tensor(factor), old.new_tensor(1.0))
        scaled = centre + factors[:, None] * (self.translations - centre)
        motion = self.motion
        if motion.kind != "still":
            units = torch.cat([factors[:, None].expand(-1, 3), torch.ones_like(scaled)], 1)
            motion = replace(motion, modes=motion.modes * units[..., None], drift=motion.drift * units)
        translations = torch.where(self._mask(tokens)[:, None], scaled, self.translations)
        return replace(self, translations=translations, motion=motion, sizes=old * factors)

    def turn_world(self, pose: Pose) -> SceneLatent:
        """Turn scene and light together by g; seen from cameras turned by g nothing changes."""
        return self.move(pose).relight(quat_to_rotmat(pose[0]))

    def relight(self, rotation: Float[Tensor, "3 3"], gain: float = 1.0) -> SceneLatent:
        """Turn the environment light by a rotation matrix and scale it."""
        return replace(self, light=rotate_sh(self.light.mT, rotation).mT * gain)

    def permute(self, order: Int[Tensor, " k"]) -> SceneLatent:
        """Reorder the tokens."""
        return self._index_tokens(order)

    def select(self, tokens: Tensor) -> SceneLatent:
        """Keep the tokens of a bool mask or of indices: an object, or all but one."""
        return self._index_tokens(tokens)

    def duplicate(self, tokens: Tensor, pose: Pose) -> SceneLatent:
        """Add a copy of the tokens of a bool mask or of indices, moved by g; rows of the copy come last."""
        copy = self.select(tokens).move(pose)
        both = {
            name: torch.cat([getattr(self, name), getattr(copy, name)])
            for name in ("ids", "quats", "translations", "geometry", "appearance")
        }
        new = copy.copies - copy.copies.min() + self.copies.max() + 1
        copies = torch.cat([self.copies, new])
        ways = {n: torch.cat([getattr(z.motion, n) for z in (self, copy)]) for n in ("modes", "drift")}
        sizes = None if self.sizes is None or copy.sizes is None else torch.cat([self.sizes, copy.sizes])
        motion = replace(self.motion, **ways)
        return replace(self, **both, copies=copies, motion=motion, sizes=sizes)

    def at(self, time: float) -> SceneLatent:
        """Φ_t·Z: the scene whose time 0 is this one's clip time `time`. ℝ acts by shifts of the clock."""
        clock = self.motion.time_map.after(TimeMap(offset=time))
        return replace(self, motion=replace(self.motion, time_map=clock))

    def _mask(self, tokens: Tensor) -> Bool[Tensor, " k"]:
        chosen = torch.zeros(len(self), dtype=torch.bool, device=self.quats.device)
        chosen[tokens] = True
        return chosen

    def _index_tokens(self, index: Tensor) -> SceneLatent:
        chosen = {
            name: getattr(self, name)[index]
            for name in ("ids", "copies", "quats", "translations", "geometry", "appearance")
        }
        sizes = None if self.sizes is None else self.sizes[index]
        motion = replace(self.motion, modes=self.motion.modes[index], drift=self.motion.drift[index])
        return replace(self, **chosen, motion=motion, sizes=sizes)
