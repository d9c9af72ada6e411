"""What motion over many scenes earns: data/motions, whose Wolf, Bull, Stegosaurus and Tuna are held out.

python benchmarks/motions.py train --output runs          trains the prior (an hour): RUN is
                                                          runs/motions/nest-prior/motion
python benchmarks/motions.py known --load-config RUN/config.yml
python benchmarks/motions.py prediction --load-config RUN/config.yml
python benchmarks/motions.py half-cycle --load-config RUN/config.yml
python benchmarks/motions.py adaptation --load-config RUN/config.yml
python benchmarks/motions.py aggregation --load-config RUN/config.yml
python benchmarks/motions.py transfer --load-config RUN/config.yml --output transfer.png
"""

from __future__ import annotations

import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision.utils
import tyro
from clip_runs import first_part, fit, with_frames
from results import record
from torch import Tensor

from nest_nerfstudio.data.scenes.sampling import context_views, timed_views
from nest_nerfstudio.geometry.points import smooth_neighbors
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.latent_optimization import take_steps
from nest_nerfstudio.models.latent_parameters import LatentParameters, detached
from nest_nerfstudio.models.nest_prior import NestPriorModel
from nest_nerfstudio.pipelines.prior_run import find_prior
from nest_nerfstudio.types import SceneLatent, Views

DATA = Path("../shared/data/motions")
HELD_OUT = ("wolf", "bull", "stegosaurus", "tuna")
REST_VIEWS = 8


def train(
    data: Path = DATA,
    output: Path = Path("runs"),
    minutes: float = 60.0,
    small: bool = False,
    options: str = "",
) -> None:
    """Train the prior: for three fifths of the time all of it, then motion alone, which takes steps faster.

    Codes that were learned with motion seem to tell the motion map more than those that were not.

    Args:
        data: the clips.
        output: folder of the runs `all` and `motion`; the latter is the prior.
        minutes: how long.
        small: half the resolution, where a fraction of a core is all there is.
        options: more options of both, as `--options="--pipeline.model.motion.rigidity 0.05"`.
    """
    common = f"ns-train nest-prior --data {data} --output-dir {output} --experiment-name motions"
    common += " --vis tensorboard --pipeline.model.dynamics True"
    common += " --pipeline.datamanager.edit-states 0 --pipeline.datamanager.num-context 2 6"
    common += " --pipeline.model.training-tokens 160 320 --pipeline.model.encoder.num-tokens 320"
    common += " --pipeline.eval-context 8"
    if small:
        common += " --pipeline.datamanager.downscale 2 --pipeline.model.encoder.image-size 64"
        common += " --pipeline.model.encoder.proposals.cells 48 --pipeline.model.encoder.proposals.patches 32"
        common += " --pipeline.model.motion.encoder.image-size 64"
    init = output / "motions" / "nest-prior" / "all" / "config.yml"
    motion = f"--pipeline.model.init {init} --pipeline.model.freeze True"
    motion += " --pipeline.datamanager.scenes-per-batch 8 --pipeline.datamanager.num-targets 1"
    motion += " --pipeline.datamanager.augmentation.mirror 0 --pipeline.model.motion.clip-codes 1"
    for run, share, settings in (("all", 0.6, ""), ("motion", 0.4, motion)):
        timing = ["--timestamp", run, "--max-minutes", str(share * minutes)]
        parser = ["nest-scenes", "--held-out", *HELD_OUT]
        command = f"{common} {settings} {options}"
        subprocess.run([*command.split(), *timing, *parser], check=True)


# ---------------------------------------------------------------- motion of animals of the training


@torch.no_grad()
def known(load_config: Path, every: int = 3, free_steps: int = 600) -> None:
    """PSNR of test images of training clips that move by codes of their own, or stand still.

    What one map for all of them costs is seen against modes of each clip alone, on the same geometry.

    Args:
        load_config: config.yml of the prior.
        every: one of so many clips.
        free_steps: training steps of a clip's own modes.
    """
    model, data = load(load_config)
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in data.index.split("train")[::every]:
        sample = data.eval_sample(number, REST_VIEWS)
        latent = model.encoder(sample.context)
        moving = model.moving(latent, sample.context, sample.observed, number)
        figures["standing still"]["psnr"].append(psnr(model, latent, sample.timed))
        figures["views at rest, encoded"]["psnr"].append(psnr(model, latent, sample.context))
        figures["own codes"]["psnr"].append(psnr(model, moving, sample.timed))
        figures["own codes"]["period"].append(moving.motion.period.item())
        frames = timed_views(data.library, number, 1000)
        assert frames is not None
        free = with_own_modes(model, moving, frames, free_steps)
        figures["own modes"]["psnr"].append(psnr(model, free, sample.timed))
    save("motions_known", figures, load_config)


def with_own_modes(model: NestPriorModel, moving: SceneLatent, frames: Views, steps: int) -> SceneLatent:
    """The scene with modes and a period that are fitted to its frames alone."""
    scene, background = DecodedScene(moving, model.field, model.flow), model.shown_background(False)
    order = torch.Generator().manual_seed(0)
    with torch.enable_grad():
        parameters = LatentParameters.from_latent(moving, ("motion",))

        def error(step: int) -> Tensor:
            view = frames.select(torch.randint(len(frames), (1,), generator=order))
            losses, _ = model.scene_losses(scene.moving_as(parameters().motion), view, background)
            return losses["photometric"]

        learned = [parameters.get_parameter(name) for name in ("modes", "log_period")]
        take_steps([(learned, 5e-3)], error, steps, final_ratio=0.1)
    return detached(parameters())


# ---------------------------------------------------------------- motion of unseen animals from few frames


def prediction(
    load_config: Path, counts: tuple[int, ...] = (4,), steps: int = 40, trained: int = 500
) -> None:
    """PSNR of test images of the held-out clips, their motion read from few frames beside the views at rest.

    It is read by the prior alone, and by nest-dynamic runs on these frames, from the prior and from scratch.

    Args:
        load_config: config.yml of the prior.
        counts: numbers of frames.
        steps: gradient steps on the code alone.
        trained: steps of runs.
    """
    model, data = load(load_config)
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    output = Path(tempfile.mkdtemp())
    for number, latent, context, targets in clips(model, data):
        name, category = data.index.entries[number].name, data.index.entries[number].category
        for column in ("psnr", category):
            figures["standing still"][column].append(psnr(model, latent, targets))
            figures["views at rest, encoded"][column].append(psnr(model, latent, context))
        for count in counts:
            frames = timed_views(data.library, number, count)
            assert frames is not None
            for way in ways_of(model):
                moving = read_motion(model, latent, context, frames, way, steps)
                for column in ("psnr", category):
                    figures[f"{count} frames, {way}"][column].append(psnr(model, moving, targets))
            clip = with_frames(folder_of(load_config) / name, count, output / f"{name}_{count}")
            for way, prior in {"from the prior": load_config, "from scratch": None}.items():
                reached, _ = fit(clip, trained, prior, output)
                for column in ("psnr", category):
                    figures[f"{count} frames, {trained} steps {way}"][column].append(reached)
    save("motions_prediction", figures, load_config, steps=steps)


def half_cycle(
    load_config: Path,
    share: float = 0.5,
    period: float = 0.8,
    steps: int = 40,
    trained: tuple[int, ...] = (100, 500),
) -> None:
    """PSNR of images after the first half of a cycle, of which alone the motion is read.

    It is read by the prior alone, and by nest-dynamic runs on that half, from the prior and from scratch.

    Args:
        load_config: config.yml of the prior.
        share: of the cycle that is seen.
        period: length of a cycle in clips, by which it is cut.
        steps: gradient steps on the code alone.
        trained: steps of runs.
    """
    model, data = load(load_config)
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    until, output = share * period, Path(tempfile.mkdtemp())
    for number, latent, context, _ in clips(model, data):
        name = data.index.entries[number].name
        frames = timed_views(data.library, number, 1000)
        assert frames is not None
        assert frames.times is not None
        seen, rest = (frames.select(where) for where in (frames.times <= until, frames.times > until))
        figures["standing still"]["psnr"].append(psnr(model, latent, rest))
        for way in ways_of(model):
            moving = read_motion(model, latent, context, seen, way, steps)
            figures[way]["psnr"].append(psnr(model, moving, rest))
            figures[way]["period"].append(moving.motion.period.item())
        clip = first_part(folder_of(load_config) / name, until, output / name)
        for way, prior in {"from the prior": load_config, "from scratch": None}.items():
            for count in trained:
                reached, _ = fit(clip, count, prior, output)
                print(f"{name}, {way}, {count} steps: {reached:.2f} dB", flush=True)
                figures[f"trained on it {way}, {count} steps"]["psnr"].append(reached)
    save("motions_half_cycle", figures, load_config, share=share, steps=steps)


# ---------------------------------------------------------------- a new clip from the prior


def adaptation(
    load_config: Path,
    scenes: tuple[str, ...] = (
        "quadruped_wolf_gallop",
        "quadruped_bull_walk",
        "dinosaur_stegosaurus_run",
        "fish_tuna_fast",
    ),
    frames: tuple[int, ...] = (40, 10),
    steps: tuple[int, ...] = (100, 200, 500),
    longest: int = 2000,
) -> None:
    """PSNR of test images and seconds of nest-dynamic runs of so many steps, from the prior and from scratch.

    Args:
        load_config: config.yml of the prior.
        scenes: held-out clips.
        frames: numbers of train frames in motion.
        steps: of the runs.
        longest: steps of one run more from scratch, on the most frames.
    """
    folder = folder_of(load_config)
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    output = Path(tempfile.mkdtemp())  # kept: writers of a training outlive it
    for scene in scenes:
        for few in frames:
            clip = with_frames(folder / scene, few, output / f"{scene}_{few}")
            runs = [(prior, count) for prior in (load_config, None) for count in steps]
            for prior, count in [*runs, *([(None, longest)] if few == max(frames) else [])]:
                way = "from scratch" if prior is None else "from the prior"
                reached, seconds = fit(clip, count, prior, output)
                row = f"{few} frames, {way}, {count} steps"
                print(f"{scene}, {row}: {reached:.2f} dB, {seconds:.0f} s", flush=True)
                figures[row]["psnr"].append(reached)
                figures[row]["seconds"].append(seconds)
    save("motions_adaptation", figures, load_config, scenes=list(scenes))


def aggregation(
    load_config: Path,
    scenes: tuple[str, ...] = ("quadruped_horse_gallop", "fish_koi_fast"),
    frames: tuple[int, ...] = (40, 10),
    steps: int = 500,
) -> None:
    """PSNR of test images of clips whose motion was learned with others, and of the same clips alone.

    Both are nest-dynamic runs of as many steps on the same frames: one starts from what all clips share.

    Args:
        load_config: config.yml of the prior.
        scenes: clips that it was trained on.
        frames: numbers of frames in motion.
        steps: of each run.
    """
    folder = folder_of(load_config)
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    output = Path(tempfile.mkdtemp())
    for count in frames:
        for scene in scenes:
            clip = with_frames(folder / scene, count, output / f"{scene}_{count}")
            for way, prior in {"shared": load_config, "alone": None}.items():
                reached, seconds = fit(clip, steps, prior, output)
                print(f"{scene}, {count} frames, {way}: {reached:.2f} dB, {seconds:.0f} s", flush=True)
                figures[f"{way}, {count} frames"]["psnr"].append(reached)
    save("motions_aggregation", figures, load_config, scenes=list(scenes), steps=steps)


# ---------------------------------------------------------------- motion of one animal on another


@torch.no_grad()
def transfer(
    load_config: Path,
    source: str = "quadruped_horse_gallop",
    targets: tuple[str, ...] = ("quadruped_deer_walk", "dinosaur_apatosaurus_walk"),
    output: Path = Path("transfer.png"),
) -> None:
    """Drive other bodies by a clip's motion: edges between tokens over a cycle, period, and an image.

    Args:
        load_config: config.yml of the prior.
        source: clip whose motion is taken.
        targets: clips whose bodies are driven.
        output: rows of a cycle of source and targets.
    """
    model, data = load(load_config)
    shared = model.shared_motion
    assert shared is not None
    scenes = {}
    for name in (source, *targets):
        number = data.index.find(name)
        context, frames = (
            context_views(data.library, number, REST_VIEWS),
            timed_views(data.library, number, 24),
        )
        latent = model.encoder(context)
        if name == source:
            motion = read_motion(model, latent, context, frames, "hybrid").motion
        scenes[name] = (DecodedScene(shared.retarget(latent, motion), model.field, model.flow), context)
    figures, rows = {}, []
    times = torch.linspace(0, 1, 9)[:-1] * motion.period
    for name, (scene, context) in scenes.items():
        figures[name] = {
            "largest stretch of an edge": stretch(scene, times, 1.0),
            "99 % stretch": stretch(scene, times, 0.99),
            "step, share of size": float(
                (scene.poses_at(times[4])[1] - scene.poses_at(0.0)[1]).norm(dim=1).mean()
                / scene.latent.translations.std(0).norm()
            ),
            "period": scene.latent.motion.period.item(),
        }
        view = context.select(slice(1))
        drawn = [model.rasterize(scene.gaussians_at(t), view, torch.ones(3)).rgb[0] for t in times]
        rows.append(torch.cat(drawn, 1))
    torchvision.utils.save_image(torch.cat(rows).clamp(0, 1).permute(2, 0, 1), output)
    print(figures)
    record("motions_transfer", figures, settings={"run": str(load_config.parent.name), "source": source})


def stretch(scene: DecodedScene, times: Tensor, quantile: float) -> float:
    """Longest over shortest length of edges between neighbouring tokens over these times, at a quantile."""
    rest = scene.latent.translations
    neighbors = smooth_neighbors(rest, rest, 7)[0][:, 1:]
    lengths = []
    for t in times:
        positions = scene.poses_at(t)[1]
        lengths.append((positions[neighbors] - positions[:, None]).norm(dim=-1))
    ratios = torch.stack(lengths).amax(0) / torch.stack(lengths).amin(0)
    return ratios.flatten().quantile(quantile).item()


# ---------------------------------------------------------------- shared


def load(config: Path) -> tuple[NestPriorModel, Any]:
    """The prior and its data manager."""
    run = find_prior(config)
    return run.model("cpu"), run.config.pipeline.datamanager.setup(device="cpu", test_mode="inference")


def folder_of(config: Path) -> Path:
    """Folder of the clips that a prior was trained on."""
    data: Any = find_prior(config).config.pipeline.datamanager
    return data.data or data.dataparser.data


def clips(model: NestPriorModel, data: Any) -> Iterator[tuple[int, SceneLatent, Views, Views]]:
    """Number, latent at rest, context and timed test views of each held-out clip."""
    for number in data.held_out:
        sample = data.eval_sample(number, REST_VIEWS)
        with torch.no_grad():
            latent = model.encoder(sample.context)
        yield number, latent, sample.context, sample.timed


Way = Literal["encoder", "steps", "hybrid"]


def ways_of(model: NestPriorModel) -> tuple[Way, ...]:
    """Ways to read motion that a model can go."""
    assert model.motion_prior is not None
    return ("steps",) if model.motion_prior.config.code == "steps" else ("encoder", "steps", "hybrid")


@torch.no_grad()
def read_motion(
    model: NestPriorModel,
    latent: SceneLatent,
    context: Views,
    frames: Views | None,
    way: Way,
    steps: int = 40,
) -> SceneLatent:
    """The scene with the motion of frames, read in one of the three ways."""
    prior = model.motion_prior
    assert prior is not None
    before, prior.config = prior.config, replace(prior.config, code=way, shown_steps=steps)
    try:
        return model.moving(latent, context, frames)
    finally:
        prior.config = before


@torch.no_grad()
def psnr(model: NestPriorModel, latent: SceneLatent, views: Views) -> float:
    """Mean over images on white, dB."""
    errors = (
        (model.render(latent, views).rgb.clamp(0, 1) - views.over(torch.ones(3))).square().mean((1, 2, 3))
    )
    return float((-10 * errors.log10()).mean())


def save(name: str, figures: dict[str, dict[str, list[float]]], config: Path, **settings: Any) -> None:
    """Record means over clips."""
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for row, found in figures.items():
        for column, values in found.items():
            means[column][row] = float(np.mean(values))
        print(row, {column: round(means[column][row], 3) for column in found}, flush=True)
    run: Any = find_prior(config)
    steps = int(run.checkpoint.stem.split("-")[1]) + 1
    settings |= {"prior_steps": steps, "prior_minutes": run.config.max_minutes}
    settings["rigidity"] = run.model_config.motion.rigidity
    while run.model_config.init is not None:  # and those of the run that it started from
        run = find_prior(run.model_config.init)
        settings["geometry_minutes"] = settings.get("geometry_minutes", 0.0) + run.config.max_minutes
    record(name, means, settings=settings)


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    tyro.extras.subcommand_cli_from_dict(
        {
            "train": train,
            "known": known,
            "prediction": prediction,
            "half-cycle": half_cycle,
            "adaptation": adaptation,
            "aggregation": aggregation,
            "transfer": transfer,
        }
    )
