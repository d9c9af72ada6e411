"""How far the parts of a prior's latent are disentangled; see docs/disentanglement.md for the definition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from nest_nerfstudio.analysis.factor_data import (
    FACTORS,
    FactorData,
    Observed,
    levels,
    read_factor_data,
    toy_factor_data,
)
from nest_nerfstudio.analysis.image_autoencoder import train_autoencoder
from nest_nerfstudio.analysis.lsbd import dispersion, fitted_dispersion, shift_dispersion, so2_elements
from nest_nerfstudio.analysis.report import Command, Report, Value
from nest_nerfstudio.analysis.summaries import (
    PARTS,
    chroma,
    summarise,
    turning_frames,
    turning_light,
    turning_positions,
)
from nest_nerfstudio.edits.states import placement
from nest_nerfstudio.encoders.latent_encoder import LatentEncoderConfig
from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig
from nest_nerfstudio.geometry.multiview import camera_centres
from nest_nerfstudio.geometry.quaternion import quat_exp, quat_to_rotmat
from nest_nerfstudio.geometry.se3 import se3_inverse
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.types import SceneLatent, Views

FITTED_STATES = 4
"""Fewest states of an orbit from which a linear representation is fitted."""


@dataclass(frozen=True, kw_only=True)
class Disentanglement(Command):
    """Measure how far light, pose, colour and time keep to their own part of a latent.

    Scenes are encoded in states whose factors are known: turned (yaw), moved (place), relit (light),
    recoloured (hue), at other moments (phase). Beside them stands a plain autoencoder, trained on the same
    images, with as many numbers in its code as the latent has here, cut into pieces as long as the parts.

    Leakage, the rows of the table: R² with which a probe predicts a factor from one part, on scenes that it
    was not fitted to; linear (ridge regression) and mlp (a small network). A part of its own should tell its
    factor (1), any other nothing (0 or less). What cameras alone tell of a factor, the figures say.

    D_LSBD (Tonnaer et al., arXiv 2011.06070), among the figures: latents of an orbit are brought back by the
    inverse action (turned or moved back, relit, recoloured, set back in time) and should coincide: dispersion
    over size, 0 at best, 1 for a code that is constant or noise. "fitted": the action is not given, but the
    linear representation of SO(2) under which the least is left; that is the only one that a plain
    autoencoder has, and it takes four states of a scene.

    MIG, DCI, SAP and FactorVAE score ask for one number for each factor, 1 at best. A vector that turns with
    its group is no such number, so a latent may fail them and be disentangled, and the reverse.

    Without --data, procedural figures are drawn, all of whose factors are known. Without --load-config, the
    encoder is a fresh one, and what is found holds by construction.

    A trained prior on its data: nest-analyze disentanglement --load-config RUN/config.yml --data SCENES
    """

    NAME: ClassVar[str] = "disentanglement"

    load_config: Path | None = None
    """config.yml of a run of nest-prior; by default a fresh encoder."""
    data: Path | None = None
    """Folder of scenes with edits (scenes.json); by default procedural figures."""
    scenes: int = 9
    """Most scenes."""
    views: int = 3
    """Most views of a state."""
    states: int = 5
    """States of each orbit of a procedural figure, and most moments of a moving scene of --data."""
    mixed: int = 8
    """States of each procedural figure with all factors drawn at once, for the classic scores."""
    tokens: int = 192
    """Tokens that a state is encoded to."""
    autoencoder_steps: int = 500
    """Training steps of the plain autoencoder."""
    seed: int = 0
    """Random seed of figures, cameras and weights."""

    def run(self) -> Report:
        from nest_nerfstudio.analysis.scores import MIN_SCENES  # scikit-learn is an extra

        for name in ("scenes", "views", "states", "mixed", "tokens", "autoencoder_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(self, name)}")
        if self.scenes < MIN_SCENES or self.states < 2:
            raise ValueError(f"--scenes must be {MIN_SCENES} or more, for probes, and --states 2 or more")
        encode, field = self._prior()
        if self.data is None:
            data = toy_factor_data(self.scenes, self.views, self.states, self.mixed, seed=self.seed)
        else:
            data = read_factor_data(self.data, self.scenes, self.views, self.states)
        return self.measure(encode, field, data)

    def measure(self, encode: Encode, field: Field, data: FactorData) -> Report:
        """Leakage, D_LSBD and classic scores of an encoder of states.

        Args:
            encode: a state to its latent.
            field: of the latents, which recolours them.
            data: the states.

        Raises:
            ValueError: too few scenes, or latents that are not finite.
        """
        from nest_nerfstudio.analysis.scores import classic_scores

        states = _unique(data)
        shown = track(states, "Encoding", console=CONSOLE, transient=True)
        latents = {id(state): encode(state) for state in shown}
        parts = {key: summarise(latent) for key, latent in latents.items()}
        sizes = {name: len(parts[id(states[0])][name]) for name in PARTS}
        ours = {name: np.stack([_array(parts[id(s)][name]) for s in states]) for name in PARTS}
        codes, psnr = train_autoencoder(
            [state.views for state in states], sum(sizes.values()), self.autoencoder_steps, seed=self.seed
        )
        cuts = np.cumsum(list(sizes.values()))[:-1]
        plain: dict[str, np.ndarray] = dict(zip(PARTS, np.split(codes, cuts, axis=1), strict=True))
        rows_of = {id(state): row for row, state in enumerate(states)}
        rows = leakage_rows(data, rows_of, ours, plain)
        lsbd = _lsbd(data, latents, field, rows_of, ours, codes)
        classic = {}
        mixed = [rows_of[id(state)] for state in data.mixed]
        for name, values in (("latent", np.concatenate(list(ours.values()), 1)), ("autoencoder", codes)):
            scenes = np.array([state.scene for state in data.mixed])
            found = classic_scores(values[mixed], levels(data.mixed, data.factors), scenes)
            classic |= {f"{score}, {name}": value for score, value in found.items()}
        figures = {**_summary(rows), **_of_cameras(data), **lsbd, **classic, "PSNR of the autoencoder": psnr}
        plots = {"leakage": _leakage_figure(rows), "lsbd": _lsbd_figure(lsbd)}
        return Report(figures, rows, plots, notes=_notes(sizes, data, len(states)))

    def _prior(self) -> tuple[Encode, Field]:
        """The encoder of a run, or a fresh one, and the field of its latents."""
        if self.load_config is None:
            torch.manual_seed(self.seed)
            encoder: Any = LatentEncoderConfig().setup().eval()
            field = LatentGaussianFieldConfig().setup(geometry_dim=encoder.config.geometry_dim)
        else:
            model = load_run(self.load_config).model
            if not hasattr(model, "latent_of_cloud"):
                raise ValueError(
                    f"{self.load_config} is a run of one scene, which has no encoder of other states: "
                    "disentanglement is measured on a run of nest-prior"
                )
            encoder, field = model.encoder.eval(), model.field

        @torch.no_grad()
        def encode(state: Observed) -> SceneLatent:
            return encoder(state.views, num_tokens=self.tokens)

        return encode, field


Encode = Callable[[Observed], SceneLatent]


def _unique(data: FactorData) -> list[Observed]:
    """All states, once."""
    found = [state for orbit in data.orbits for state in orbit.states] + list(data.mixed)
    return list({id(state): state for state in found}.values())


def _array(values: Tensor) -> Float[np.ndarray, " d"]:
    return values.detach().double().cpu().numpy()


# ---------------------------------------------------------------- leakage


def leakage_rows(
    data: FactorData, rows_of: dict[int, int], ours: dict[str, np.ndarray], plain: dict[str, np.ndarray]
) -> list[dict[str, Value]]:
    """One row for each factor and part."""
    from nest_nerfstudio.analysis.scores import leakage

    rows = []
    pairs = [(factor, part) for factor in data.factors for part in PARTS]
    for factor, part in track(pairs, "Fitting probes", console=CONSOLE, transient=True):
        states, _ = data.of(factor)
        index = [rows_of[id(state)] for state in states]
        targets = np.array([FACTORS[factor].target(state) for state in states])
        scenes = np.array([state.scene for state in states])
        row: dict[str, Value] = {"factor": factor, "part": part, "its own": part in FACTORS[factor].parts}
        for name, codes in (("latent", ours[part]), ("autoencoder", plain[part])):
            for probe in ("linear", "mlp"):
                try:
                    row[f"{name}, {probe}"] = leakage(codes[index], targets, scenes, probe)
                except ValueError as error:
                    raise ValueError(f"{factor}, from the part {part}: {error}") from error
        rows.append(row)
    return rows


def _of_cameras(data: FactorData) -> dict[str, float]:
    """What cameras alone tell of each factor: what parts of Z tell up to that may be of the data."""
    from nest_nerfstudio.analysis.scores import leakage

    figures = {}
    for factor in data.factors:
        states, _ = data.of(factor)
        codes = np.stack([_array(_camera_summary(state.views)) for state in states])
        targets = np.array([FACTORS[factor].target(state) for state in states])
        scenes = np.array([state.scene for state in states])
        figures[f"{factor} from cameras"] = leakage(codes, targets, scenes)
    return figures


def _camera_summary(views: Views) -> Float[Tensor, " d"]:
    """Mean rotation, mean position and second moments of positions of cameras."""
    centres = camera_centres(views.viewmats) / 4
    moments = centres.mT @ centres / len(centres)
    return torch.cat([views.viewmats[:, :3, :3].mean(0).flatten(), centres.mean(0), moments.flatten()])


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """For each factor, the most that a part which is not its own tells of it, and what its own tells."""
    figures = {}
    for name in ("latent", "autoencoder"):
        for factor in dict.fromkeys(row["factor"] for row in rows):
            told = {
                own: max(
                    max(row[f"{name}, linear"], row[f"{name}, mlp"])
                    for row in rows
                    if row["factor"] == factor and row["its own"] == own
                )
                for own in (True, False)
            }
            figures[f"leakage of {factor}, {name}"] = told[False]
            figures[f"{factor} from its own, {name}"] = told[True]
    return figures


# ---------------------------------------------------------------- D_LSBD


def _lsbd(
    data: FactorData,
    latents: dict[int, SceneLatent],
    field: Field,
    rows_of: dict[int, int],
    ours: dict[str, np.ndarray],
    codes: Float[np.ndarray, "n d"],
) -> dict[str, float]:
    """D_LSBD of every factor, under the known action, and under the best linear one."""
    figures: dict[str, float] = {}
    for factor in data.factors:
        states, orbits = data.of(factor)
        index = [rows_of[id(state)] for state in states]
        known = [latents[id(state)] for state in states]
        found = known_lsbd(factor, states, orbits, known, field)
        figures |= {f"D_LSBD {name}": value for name, value in found}
        turns = FACTORS[factor].turns
        if turns is None or min(np.bincount(orbits)) < FITTED_STATES:
            continue
        elements = so2_elements(2 * math.pi * np.array([turns(state) for state in states]), orbits)
        own = np.concatenate([ours[part] for part in FACTORS[factor].parts], 1)
        for name, values in (("latent", own), ("autoencoder", codes)):
            fitted = fitted_dispersion(values[index], elements, orbits)[0] if values.shape[1] > 1 else 1.0
            figures[f"D_LSBD {factor}, fitted, {name}"] = fitted
    return figures


def known_lsbd(
    factor: str, states: Sequence[Observed], orbits: np.ndarray, latents: Sequence[SceneLatent], field: Field
) -> list[tuple[str, float]]:
    """D_LSBD under the action on Z that the factor is: latents brought back to the base of their orbit."""

    def of(features: Callable[[SceneLatent], Tensor], back: Callable[[Observed, SceneLatent], SceneLatent]):
        rows = [features(back(state, z)) for state, z in zip(states, latents, strict=True)]
        return dispersion(np.stack([_array(row) for row in rows]), orbits)

    if factor == "yaw":
        return [
            ("yaw, positions", of(turning_positions, _moved_back)),
            ("yaw, frames", of(turning_frames, _moved_back)),
        ]
    if factor == "place":
        centroids = np.stack([_array(z.translations.mean(0)) for z in latents])
        shifts = np.array([state.edit.translate for state in states])
        return [("place", shift_dispersion(centroids, shifts, orbits, np.eye(3)))]
    if factor == "light":
        return [("light", of(turning_light, _relit_back))]
    if factor == "hue":
        return [("hue", of(chroma, lambda state, z: _recolored_back(state, z, field)))]
    return [("phase", of(_moving_code, lambda state, z: z.at(-state.time)))]


def _moved_back(state: Observed, latent: SceneLatent) -> SceneLatent:
    return latent.move(se3_inverse(placement(state.edit, latent.translations)))


def _relit_back(state: Observed, latent: SceneLatent) -> SceneLatent:
    """The light turned so that the sun stands over +x at its mean height, and scaled to a sun of 1."""
    assert state.edit.light is not None
    x, y, z = state.sun
    back = latent.light.new_tensor([0.0, 0.0, -math.atan2(y, x)])
    tilt = latent.light.new_tensor([0.0, math.asin(z) - _MEAN_HEIGHT, 0.0])
    rotation = quat_to_rotmat(quat_exp(tilt)) @ quat_to_rotmat(quat_exp(back))
    return latent.relight(rotation, 1 / max(state.edit.light.sun, 1e-6))


_MEAN_HEIGHT = math.asin(0.7)


def _recolored_back(state: Observed, latent: SceneLatent, field: Field) -> SceneLatent:
    everything = torch.ones(len(latent), dtype=torch.bool, device=latent.quats.device)
    return field.recolor(latent, everything, -state.edit.hue, (1.0, 1.0, 1.0))


def _moving_code(latent: SceneLatent) -> Tensor:
    """The state of a moving scene at the time that its clock shows; none of a still one."""
    motion = latent.motion
    if motion.kind == "still":
        return latent.light.new_zeros(1)
    own = motion.time_map(motion.period.new_zeros(()))
    phase = 2 * math.pi * (motion.phase + own / motion.period)
    return torch.stack([phase.cos(), phase.sin()]) * motion.start.norm()


# ---------------------------------------------------------------- report


def _notes(sizes: dict[str, int], data: FactorData, states: int) -> list[str]:
    scenes = len({state.scene for orbit in data.orbits for state in orbit.states})
    described = ", ".join(f"{name} {size}" for name, size in sizes.items())
    notes = [f"{states} states of {scenes} scenes; numbers of each part: {described}."]
    if not sizes["motion"]:
        notes.append(
            "These latents are of still scenes, so no part is that of time: D_LSBD of the phase is 1, as "
            "that of a constant code, and what other parts tell of it is in the table."
        )
    few = [f for f in data.factors if min(np.bincount(data.of(f)[1])) < FITTED_STATES]
    if few:
        notes.append(
            f"Scenes show fewer than {FITTED_STATES} states of {', '.join(few)}: no linear representation is "
            "fitted to them, and the autoencoder has no D_LSBD there."
        )
    return notes


def _leakage_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """R² of every factor from every part, the better probe of two; frames mark the parts of their own."""
    factors = list(dict.fromkeys(row["factor"] for row in rows))
    figure = Figure(figsize=(9, 0.7 + 0.6 * len(factors)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name in zip(axes, ("latent", "autoencoder"), strict=True):
        grid = np.zeros((len(factors), len(PARTS)))
        for row in rows:
            i, j = factors.index(row["factor"]), PARTS.index(row["part"])
            grid[i, j] = max(row[f"{name}, linear"], row[f"{name}, mlp"])
            axis.text(j, i, f"{round(grid[i, j], 2) + 0.0:.2f}", ha="center", va="center", fontsize=8)
            if row["its own"]:
                axis.add_patch(_frame(j, i))
        image = axis.imshow(np.clip(grid, 0, 1), vmin=0, vmax=1, cmap="Blues", alpha=0.7)
        axis.set(title=name, xticks=range(len(PARTS)), yticks=range(len(factors)))
        axis.set_xticklabels(PARTS, rotation=30, ha="right")
        axis.set_yticklabels(factors)
    figure.colorbar(image, ax=axes, label="R² on other scenes")
    return figure


def _frame(x: int, y: int) -> Any:
    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fill=False, edgecolor="black", linewidth=1.5)


def _lsbd_figure(lsbd: dict[str, float]) -> Figure:
    figure = Figure(figsize=(7, 0.6 + 0.28 * len(lsbd)), layout="constrained")
    axis = figure.subplots()
    names = [name.removeprefix("D_LSBD ") for name in lsbd]
    colors = ["tab:orange" if "autoencoder" in n else "tab:blue" for n in names]
    axis.barh(names, list(lsbd.values()), color=colors)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="D_LSBD (0 at best)")
    return figure
