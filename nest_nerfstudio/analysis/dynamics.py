"""`nest-analyze dynamics`: what the latent ODE of a trained scene does, in its clip and beyond."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import tyro
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor

from nest_nerfstudio.analysis.cycles import Cycle, Field, cycle_at, divergence, find_cycle
from nest_nerfstudio.analysis.dynamics_figure import Portrait, draw_dynamics
from nest_nerfstudio.analysis.report import Command, Report, Value
from nest_nerfstudio.dynamics.flow import LatentFlow
from nest_nerfstudio.dynamics.orbit import oscillator_field
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.nest_dynamic import NestDynamicModel
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.types import MotionCode

SPLITS = ("future", "test", "val")
"""Splits whose images extrapolation is scored on, as far as there are any."""
STEPS_PER_CLIP = 128
"""Runge–Kutta steps for derivatives of the flow."""


@dataclass(frozen=True, kw_only=True)
class Dynamics(Command):
    """Measure the latent ODE ż = F(z) of a trained nest-dynamic run.

    Along the trajectory from time 0 to --clips: the kinetic energy of the tokens and of the state, and the
    divergence of F, which is negative where the flow contracts volumes. The period, and the Floquet
    multipliers of the cycle: one is 1, and the cycle attracts where all others have a modulus below 1. Motion
    that was recognised as cyclic follows an oscillator, a rotation in closed form: its multipliers are all 1,
    so it neither attracts nor drifts. Of a free ODE, a cycle is searched near its trajectory; there need be
    none.

    PSNR against time, on images that were not trained on: of the split "future" where the data has one (times
    beyond the clip), and of test or val.

    The edit of an edited run is left out. Figure: dynamics.png, with the phase portrait in the first two
    principal components of z.

    Usage:

    $ nest-analyze dynamics outputs/SCENE/nest-dynamic/TIMESTAMP

    $ nest-analyze dynamics RUN/config.yml --clips 8 --images 0
    """

    NAME: ClassVar[str] = "dynamics"

    run_path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run of nest-dynamic: its folder, or its config.yml."""
    clips: float = 4.0
    """Length of the trajectory, in lengths of the observed clip."""
    samples: int = 400
    """Number of times along it."""
    images: int = 24
    """Most images of each split that are scored; 0 scores none."""

    def run(self) -> Report:
        if not self.clips > 0 or self.samples < 3:
            raise ValueError(f"--clips must be above 0 and --samples 3 or more: {self.clips}, {self.samples}")
        pipeline = load_run(self.run_path)
        model = require_motion(pipeline.model, self.run_path)
        latent = model.latent()
        scene = DecodedScene(latent, model.field, model.flow)
        times = torch.linspace(0, self.clips, self.samples)
        field = field_of(model.flow, latent.motion)
        with torch.no_grad():
            states = model.flow.solve(latent.motion, 0.0, self.clips)(times.to(latent.quats))
            speeds = token_speeds(scene, times)
        velocities = field(states)
        energy = 0.5 * speeds.square().mean(1)
        state_energy = 0.5 * velocities.square().sum(1)
        diverging = divergence(field, states)
        cycle = cycle_of(field, latent.motion, states, self.clips)
        scores = self._scores(pipeline)
        beyond = [psnr for split, time, psnr in scores if not 0 <= time <= 1]
        inside = [psnr for split, time, psnr in scores if 0 <= time <= 1]
        figures: dict[str, Value] = {
            "motion": latent.motion.kind,
            "state dimension": len(latent.motion.start),
            "period, clips": cycle.period if cycle else None,
            "largest other Floquet multiplier": cycle.transverse if cycle else None,
            "mean divergence of F, per clip": float(diverging.mean()),
            "mean kinetic energy of tokens": float(energy.mean()),
            "last clip's energy over the first's": _ratio(energy, times),
            "mean kinetic energy of z": float(state_energy.mean()),
            "PSNR inside the clip": _mean(inside),
            "PSNR beyond the clip": _mean(beyond),
        }
        notes = [] if cycle else [f"No cycle was found within {self.clips:g} clips of this free ODE."]
        if not beyond:
            notes.append('The data has no images beyond the clip, such as a split "future".')
        portrait = Portrait(
            times, energy, state_energy, diverging, principal_components(states), cycle, scores
        )
        rows = [{"split": split, "time": time, "PSNR": psnr} for split, time, psnr in scores]
        return Report(figures, rows, {"dynamics": draw_dynamics(portrait)}, notes=notes)

    def _scores(self, pipeline: Any) -> list[tuple[str, float, float]]:
        """Split, clip time and PSNR of images, by time."""
        manager, chosen = pipeline.datamanager, []
        for split in SPLITS if self.images > 0 else ():
            if split == "val" and chosen:  # the test split stands for held-out images
                continue
            try:
                dataset = manager.read_split(split)
            except ValueError:  # there is no such split
                continue
            order = dataset.cameras.times.flatten().argsort().tolist()
            step = max(1, -(-len(order) // self.images))
            chosen += [(split, dataset, index) for index in order[::step]]
        scores = []
        for split, dataset, index in track(chosen, "Rendering", console=CONSOLE, transient=True):
            camera = dataset.cameras[index : index + 1].to(pipeline.device)
            outputs = pipeline.model.get_outputs_for_camera(camera)
            found = pipeline.model.get_image_metrics_and_images(outputs, dataset.get_data(index))[0]
            if found:  # a mask can leave nothing to score
                scores.append((split, float(camera.times), found["psnr"]))
        return sorted(scores, key=lambda score: score[1])


def require_motion(model: Any, run: Path) -> NestDynamicModel:
    """The model of a run, whose scene must move by a latent ODE.

    Raises:
        ValueError: another method, a static scene, one that an MLP deforms, or a training that ended before
            the ODE took over.
    """
    if not isinstance(model, NestDynamicModel):
        raise ValueError(f"{run} is a run of {type(model).__name__}, and has no dynamics of its own")
    if model.config.motion != "ode":
        moved = "is static" if model.config.motion == "static" else "moves by a deformation MLP"
        raise ValueError(f"the scene of {run} {moved}: it has no latent ODE to analyse")
    if not model.fitter.rolls_out:
        raise ValueError(f"the training of {run} ended before the ODE took over; train for longer")
    if model.latent().motion.kind == "still":
        raise ValueError(f"the scene of {run} is static: its tokens do not move")
    model.edit = None
    return model.eval().requires_grad_(False)


def field_of(flow: LatentFlow, motion: MotionCode) -> Field:
    """F of a scene: learned, or that of the oscillator."""
    if motion.kind == "cyclic":
        return lambda z: oscillator_field(z, motion.period)
    learned = flow.vector_field.given(motion.scene_code)
    return lambda z: learned(None, z)


def cycle_of(field: Field, motion: MotionCode, states: Float[Tensor, "t d"], clips: float) -> Cycle | None:
    """The cycle of a scene, in double precision where it is known; None where none is found."""
    if motion.kind == "cyclic":
        period, start = motion.period.double(), motion.start.double()
        steps = max(STEPS_PER_CLIP, 32 * len(start))
        return cycle_at(lambda z: oscillator_field(z, period), start, float(period), steps)
    with CONSOLE.status("Searching a cycle"):
        return find_cycle(field, states[len(states) // 2], clips, STEPS_PER_CLIP)


def token_speeds(scene: DecodedScene, times: Float[Tensor, " t"], dt: float = 1e-3) -> Float[Tensor, "t k"]:
    """Speeds of the tokens by central differences, world units per clip."""
    steps = [scene.poses_at(t + dt)[1] - scene.poses_at(t - dt)[1] for t in times]
    return torch.stack(steps).norm(dim=-1) / (2 * dt)


def principal_components(states: Float[Tensor, "t d"], count: int = 3) -> Float[Tensor, "t c"]:
    """Coordinates of states along their first principal components."""
    centred = states - states.mean(0)
    return centred @ torch.linalg.svd(centred, full_matrices=False)[2][:count].T


def _ratio(energy: Float[Tensor, " t"], times: Float[Tensor, " t"]) -> float | None:
    first, last = energy[times <= 1], energy[times >= times[-1] - 1]
    return float(last.mean() / first.mean()) if times[-1] >= 2 and first.mean() > 0 else None


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
