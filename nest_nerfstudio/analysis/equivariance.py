"""How exactly each module commutes with its groups; see docs/equivariance.md for why it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, ClassVar

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor, nn

from nest_nerfstudio.analysis.commuting import (
    Group,
    cast_latent,
    cast_views,
    default_dtype,
    exact_rotations,
    gaussians_distance,
    latent_distance,
    part_of,
    pose_distance,
    random_motion,
    rebuilt,
    relative,
    set_distance,
)
from nest_nerfstudio.analysis.report import Command, Report, Value
from nest_nerfstudio.analysis.toy_views import toy_cameras, toy_views
from nest_nerfstudio.dynamics.flow import LatentFlow, LatentFlowConfig
from nest_nerfstudio.encoders.latent_encoder import LatentEncoder, LatentEncoderConfig
from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.quaternion import quat_to_rotmat
from nest_nerfstudio.geometry.se3 import Pose, se3_compose
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.types import Gaussians, MotionCode, Points, RiggedGaussians, SceneLatent, Views

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
_IMAGES = 100
"""Tolerance of images: this times that of what they show."""
GROUPS: tuple[Group, ...] = ("se3", "so3", "azimuth")
CONTROL = "control"
"""Name of the module that is built not to commute."""
TIMES = (0.0, 0.37, 1.6)
Found = tuple[str, str, float]
"""Module, group and error."""


@dataclass(frozen=True)
class Line:
    """The modules of one precision, and a scene to try them on.

    Attributes:
        encoders: h for each group; none where a scene was fitted alone.
        field: f.
        flow: Φ.
        latent: of a scene that moves.
    """

    encoders: dict[str, LatentEncoder]
    field: Field
    flow: LatentFlow
    latent: SceneLatent


class ReadsWorld(Field):
    """A field that is built wrong: it shifts Gaussians by world position and row number of their token.

    Args:
        field: decodes all else.
    """

    def __init__(self, field: Field) -> None:
        super().__init__()
        self.field, self.knows_light = field, field.knows_light

    def forward(self, latent: SceneLatent) -> RiggedGaussians:
        rigged = self.field(latent)
        rows = rigged.tokens[:, :1]
        shift = 0.1 * (latent.translations[rows[:, 0]] + rows).sin()
        return replace(rigged, rest=replace(rigged.rest, means=rigged.rest.means + shift))

    def recolor(self, latent, tokens, hue, gain):
        return self.field.recolor(latent, tokens, hue, gain)


@dataclass(frozen=True, kw_only=True)
class Equivariance(Command):
    """Measure how exactly encoder, field, flow, pose and the whole line commute with their groups.

    Each row is ‖F(g·x) − g·F(x)‖ / ‖F(x)‖ for one module F, one group and one precision, over random group
    elements g: median and largest. Motions are SE(3) (rotations and translations), SO(3) (rotations about the
    origin) and azimuth (rotations about the vertical z axis); permutations are of tokens, views and points.
    Rotations are as matrices, so q and −q are the same.

    A row is exact where its largest error is at most 1e-5 in float32 and 1e-10 in float64. Images
    may differ by 100 times that, as their edges turn a rounding error of a Gaussian into one of a pixel. The
    rows of `control` are of a decoder that is built wrong, as it reads world coordinates and the order of
    tokens: they must not be exact, or the command would find nothing.

    Without --load-config, modules are fresh, with random weights: what holds, holds by construction. With it,
    they are those of a run of nest-prior, nest-dynamic or nest-invert.

    A trained run: nest-analyze equivariance --load-config RUN/config.yml --draws 20
    """

    NAME: ClassVar[str] = "equivariance"

    load_config: Path | None = None
    """config.yml of a run; by default fresh modules."""
    draws: int = 6
    """Random group elements for each row."""
    tokens: int = 128
    """Tokens that scenes are encoded to."""
    views: int = 3
    """Views that scenes are encoded from; they show a procedural figure."""
    seed: int = 0
    """Random seed of weights, group elements and orders."""

    def run(self) -> Report:
        for name in ("draws", "tokens", "views"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, not {getattr(self, name)}")
        model = None if self.load_config is None else load_run(self.load_config).model
        errors: dict[tuple[str, str, str], list[float]] = {}
        draws = [(name, draw) for name in TOLERANCE for draw in range(self.draws)]
        lines: dict[str, Line] = {}
        for name, draw in track(draws, "Drawing group elements", console=CONSOLE, transient=True):
            dtype = getattr(torch, name)
            with default_dtype(dtype), torch.no_grad():
                if name not in lines:
                    torch.manual_seed(self.seed)
                    lines[name] = self._line(model, dtype)
                generator = torch.Generator().manual_seed(self.seed * 1000 + draw)
                for module, group, error in self._measure(lines[name], dtype, generator):
                    errors.setdefault((module, group, name), []).append(error)
        return _report(errors)

    # ---------------------------------------------------------------- modules

    def _line(self, model: Any, dtype: torch.dtype) -> Line:
        """The modules of a run, or fresh ones, in a precision."""
        weights = {} if model is None else model.state_dict()
        if model is not None and not hasattr(model, "encoder"):
            field, flow, encoders = _copied(model.field, dtype), _copied(model.flow, dtype), {}
            latent = cast_latent(model.shown_scene().latent, dtype)
        else:
            encoder = LatentEncoderConfig() if model is None else model.config.encoder
            decoder = LatentGaussianFieldConfig() if model is None else model.config.decoder
            motion = LatentFlowConfig() if model is None else model.config.flow
            field = _made(lambda: decoder.setup(geometry_dim=encoder.geometry_dim), weights, "field.")
            flow = _made(motion.setup, weights, "flow.")
            encoders = {g: _made(replace(encoder, group=g).setup, weights, "encoder.") for g in GROUPS}
            latent = encoders["azimuth"](self._views(dtype), num_tokens=self.tokens)
        if latent.motion.kind == "still":
            latent = replace(latent, motion=_some_motion(len(latent), flow.config))
        return Line(encoders, field, flow, latent)

    def _views(self, dtype: torch.dtype) -> Views:
        """Images of a procedural figure, from cameras whose rotations are exact."""
        views = toy_views("quadruped", self.seed, toy_cameras(self.views, seed=self.seed))
        return exact_rotations(cast_views(views, dtype))

    # ---------------------------------------------------------------- measurements

    def _measure(self, line: Line, dtype: torch.dtype, generator: torch.Generator) -> Iterator[Found]:
        """Module, group and error, for one element of each group."""
        for group in GROUPS:
            exact = random_motion(group, generator, torch.float64)
            g = exact[0].to(dtype), exact[1].to(dtype)
            yield from _moved_latent(line, group, g)
            if group in line.encoders:
                yield from self._moved_views(line, group, exact, g)
        yield from self._permuted(line, generator)

    def _moved_views(self, line: Line, group: Group, exact: Pose, g: Pose) -> Iterator[Found]:
        encoder, views = line.encoders[group], self._views(g[0].dtype)
        moved = views.move(exact)
        latent, of_moved = (encoder(seen, num_tokens=self.tokens) for seen in (views, moved))
        yield "encoder", group, latent_distance(of_moved, latent.turn_world(g))
        scene, scene_moved = _at_rest(line.field, latent), _at_rest(line.field, of_moved)
        yield "encoder → Gaussians", group, gaussians_distance(scene_moved, scene.move(g))
        yield "encoder → images", group, relative(_draw(scene_moved, moved), _draw(scene, views))

    def _permuted(self, line: Line, generator: torch.Generator) -> Iterator[Found]:
        z, flow = line.latent, line.flow
        order = torch.randperm(len(z), generator=generator)
        permuted = z.permute(order)
        for name, field in (("field → Gaussians", line.field), (CONTROL, ReadsWorld(line.field))):
            yield name, "tokens", set_distance(_at_rest(field, permuted).means, _at_rest(field, z).means)
        path, time = flow.solve(z.motion, 0.0, 2.0), z.quats.new_tensor(TIMES[1])
        quats, translations = flow.poses(z, path, time)
        expected = quats[order], translations[order]
        yield "flow", "tokens", pose_distance(flow.poses(permuted, path, time), expected)
        if not line.encoders:
            return
        encoder, views = line.encoders["azimuth"], self._views(z.quats.dtype)
        shuffled = views.select(torch.randperm(len(views), generator=generator))
        latent = encoder(views, num_tokens=self.tokens)
        yield "encoder", "views", latent_distance(encoder(shuffled, num_tokens=self.tokens), latent)
        positions = torch.randn(500, 3, generator=generator, dtype=torch.float64).to(z.quats) / 3
        points = Points(positions, positions.sigmoid())
        order = torch.randperm(len(points), generator=generator)
        latent = encoder(None, points, self.tokens)
        other = encoder(None, Points(points.positions[order], points.rgb[order]), self.tokens)
        yield "encoder", "points", set_distance(_rows(other), _rows(latent))


def _moved_latent(line: Line, group: Group, g: Pose) -> Iterator[Found]:
    """Field, flow, pose, and all three at once, of a scene that moves."""
    z, moved, field, flow = line.latent, line.latent.turn_world(g), line.field, line.flow
    rigged, of_moved, path = field(z), field(moved), flow.solve(z.motion, 0.0, 2.0)
    yield "field", group, gaussians_distance(of_moved.rest, rigged.rest)
    for time in TIMES:
        t = z.quats.new_tensor(time)
        poses, poses_moved = flow.poses(z, path, t), flow.poses(moved, path, t)
        yield "flow", group, pose_distance(poses_moved, se3_compose(g, poses))
        scene = pose(rigged, poses, z.light)
        turned = pose(rigged, se3_compose(g, poses), moved.light)
        yield "pose", group, gaussians_distance(turned, scene.move(g))
        whole = pose(of_moved, poses_moved, moved.light)
        yield "field, flow, pose", group, gaussians_distance(whole, scene.move(g))
    broken = ReadsWorld(field)
    yield CONTROL, group, gaussians_distance(_at_rest(broken, moved), _at_rest(broken, z).move(g))


def _at_rest(field: Field, latent: SceneLatent) -> Gaussians:
    return pose(field(latent), latent.poses, latent.light)


def _draw(scene: Gaussians, views: Views) -> Tensor:
    rasterizer = create_rasterizer("auto", scene.means.device)
    viewmats, Ks = views.viewmats.to(scene.means), views.Ks.to(scene.means)
    return rasterizer(scene, viewmats, Ks, views.width, views.height).rgb


def _rows(latent: SceneLatent) -> Tensor:
    """What each token is, in one row."""
    rotations = quat_to_rotmat(latent.quats).flatten(1)
    return torch.cat([latent.translations, rotations, latent.geometry, latent.appearance], 1)


def _made(setup: Callable[[], Any], weights: dict[str, Tensor], prefix: str) -> Any:
    """A module in the default precision: with the weights of a run, else with random ones everywhere."""
    found = part_of(weights, prefix)
    module = rebuilt(setup, found)
    if not found:
        for parameter in module.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return module


def _copied(module: nn.Module, dtype: torch.dtype) -> Any:
    return deepcopy(module).to(dtype).eval().requires_grad_(False)


def _some_motion(tokens: int, config: LatentFlowConfig) -> MotionCode:
    """A free motion, by which tokens move by about a tenth of a unit and of a radian."""
    return MotionCode(
        start=torch.randn(config.state_dim),
        modes=0.1 * torch.randn(tokens, 6, config.state_dim + 1) / config.state_dim**0.5,
        drift=0.1 * torch.randn(tokens, 6),
        scene_code=torch.randn(config.scene_code_dim),
        period=torch.ones(()),
        phase=torch.zeros(()),
        kind="free",
    )


# ---------------------------------------------------------------- report


def _report(errors: Mapping[tuple[str, str, str], Sequence[float]]) -> Report:
    rows: list[dict[str, Value]] = []
    modules = _modules(errors)
    for (module, group, dtype), found in sorted(errors.items(), key=lambda entry: modules.index(entry[0][0])):
        largest, most = max(found), _tolerance(module, dtype)
        rows.append(
            {
                "module": module,
                "group": group,
                "dtype": dtype,
                "median": median(found),
                "largest": largest,
                "at most": most,
                "exact": largest <= most,
            }
        )
    ours = [row["exact"] for row in rows if row["module"] != CONTROL]
    caught = not any(row["exact"] for row in rows if row["module"] == CONTROL)
    figures = {
        "rows": len(ours),
        "exact": sum(map(bool, ours)),
        "all exact": all(ours),
        "control is caught": caught,
    }
    notes = [] if caught else ["The control is exact: this measurement finds nothing."]
    return Report(figures, rows, {"errors": _histogram(errors)}, notes=notes)


def _modules(errors: Mapping[tuple[str, str, str], Sequence[float]]) -> list[str]:
    """Names of the modules, the control last."""
    return sorted(dict.fromkeys(module for module, _, _ in errors), key=lambda name: name == CONTROL)


def _tolerance(module: str, dtype: str) -> float:
    return TOLERANCE[dtype] * (_IMAGES if module.endswith("images") else 1)


def _histogram(errors: Mapping[tuple[str, str, str], Sequence[float]]) -> Figure:
    """Errors of all draws, by module, for each precision."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    modules = _modules(errors)
    edges = np.arange(-18, 2, 0.5)
    for axis, dtype in zip(figure.subplots(1, len(TOLERANCE), sharey=True), TOLERANCE, strict=True):
        logs = [
            np.log10(
                np.clip([e for key, es in errors.items() if key[::2] == (m, dtype) for e in es], 1e-18, 10)
            )
            for m in modules
        ]
        axis.hist(logs, edges, stacked=True, label=modules, color=colormaps["tab10"](range(len(modules))))
        axis.axvline(np.log10(TOLERANCE[dtype]), color="black", linestyle=":", label="exact to the left")
        axis.set(title=dtype, xlabel="log₁₀ of the relative error (0 at −18)")
    figure.axes[0].set_ylabel("draws")
    figure.axes[-1].legend(fontsize="x-small")
    return figure
