"""What a trained nest-prior can do: exactness, unseen scenes against baselines, and cost.

python benchmarks/prior.py scores RUN/config.yml
python benchmarks/prior.py baselines ../shared/data/scenes
python benchmarks/prior.py exactness RUN/config.yml
python benchmarks/prior.py rotated RUN/config.yml
python benchmarks/prior.py clouds RUN/config.yml
python benchmarks/prior.py cost --plot cost.png
python benchmarks/prior.py frame
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro
from nerfstudio.utils.eval_utils import eval_setup
from results import record
from torch import Tensor

from nest_nerfstudio.analysis.commuting import (
    cast_views,
    default_dtype,
    exact_rotations,
    gaussians_distance,
    latent_distance,
    part_of,
    random_motion,
    rebuilt,
)
from nest_nerfstudio.data.scenes.index import read_index
from nest_nerfstudio.data.scenes.library import SceneLibrary
from nest_nerfstudio.data.scenes.sampling import eval_sample
from nest_nerfstudio.encoders.hull_depth import hull_points
from nest_nerfstudio.encoders.latent_encoder import LatentEncoderConfig
from nest_nerfstudio.fields.base import Field
from nest_nerfstudio.fields.bound_gaussians import BoundGaussians
from nest_nerfstudio.fields.latent_gaussians import LatentGaussianFieldConfig
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.geometry.quaternion import quat_normalize
from nest_nerfstudio.losses.photometric import photometric_loss
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.thread_pool import SHARED, give_cores_to_kernels
from nest_nerfstudio.training.visual_hull import mean_colors, sample_visual_hull
from nest_nerfstudio.types import Gaussians, Points, SceneLatent, Views

COUNTS = (1, 2, 4, 8)


def scores(load_config: Path, tokens: int = 0) -> None:
    """PSNR on unseen views of unseen scenes, by number of context views, category and edit.

    Args:
        load_config: the run's config.yml.
        tokens: K; 0: that of the training.
    """
    run = eval_setup(load_config, test_mode="test")
    pipeline = run[1]
    if tokens:
        pipeline.model.encoder.config.num_tokens = tokens
    found = pipeline.get_average_eval_image_metrics()
    kinds = sorted({key.split("/")[2] for key in found if key.count("/") == 2})
    print("| context views | all |", " | ".join(kinds), "|")
    print("|---" * (len(kinds) + 2) + "|")
    figures: dict[str, dict[str, float]] = defaultdict(dict)
    for metric in ("psnr", "psnr_refined"):
        for count in pipeline.config.eval_context:
            here = f"{metric}/{count}_views"
            if here in found:
                name = f"{count}, refined" if metric == "psnr_refined" else count
                row = [here, *(f"{here}/{kind}" for kind in kinds)]
                print(f"| {name} |", " | ".join(f"{found[key]:.2f}" for key in row), "|", flush=True)
                for kind, key in zip(("all", *kinds), row, strict=True):
                    figures[kind][str(name)] = found[key]
    settings = {"tokens": pipeline.model.encoder.config.num_tokens, **_settings(load_config, run)}
    record("prior_scores", figures, seed=run[0].machine.seed, settings=settings)


def _settings(load_config: Path, run: tuple) -> dict:
    """What tells a run's figures from those of others."""
    config, pipeline, _, step = run
    data = pipeline.datamanager.config.data
    return {"run": load_config, "data": data, "minutes": config.max_minutes, "steps": step + 1}


def baselines(data: Path, steps: int = 500) -> None:
    """The same scores without a model: the nearest training scene, and Gaussians fitted to the context.

    Args:
        data: folder with scenes.json.
        steps: of the fit.
    """
    index = read_index(data)
    library = SceneLibrary(index)
    train = {}
    for number in index.split("train"):
        scene = library.scene(number)
        train[number] = library.views(scene, scene.frames(scene.base_state))
    white = defaultdict(list)  # how far states are from white, which is most of an error where they are dark
    for number in index.split("val"):
        sample = eval_sample(library, number, 1)
        for edit, views in sample.targets:
            seen = over_white(views)
            white["+".join(edit.differences(sample.edit)) or "base"].append(psnr(torch.ones_like(seen), seen))
    print("All white, by state:", ", ".join(f"{name} {np.mean(found):.2f}" for name, found in white.items()))
    print("| context views | all white | nearest training scene | fitted from scratch |")
    print("|---|---|---|---|")
    figures: dict[str, dict[str, float]] = defaultdict(dict)
    figures["all white by state"] = {name: float(np.mean(found)) for name, found in white.items()}
    for count in COUNTS:
        found = defaultdict(list)
        for number in index.split("val"):
            sample = eval_sample(library, number, count)
            views = sample.targets[0][1]
            seen = over_white(views)
            found["nearest"].append(psnr(nearest_scene(train.values(), sample.context, views), seen))
            found["fitted"].append(psnr(fitted(sample.context, views, steps), seen))
        row = [np.mean(scores) for scores in (white["base"], *found.values())]
        print(f"| {count} |", " | ".join(f"{mean:.2f}" for mean in row), "|", flush=True)
        for name, mean in zip(
            ("all white", "nearest training scene", "fitted to the views"), row, strict=True
        ):
            figures[name][str(count)] = float(mean)
    record("prior_baselines", figures, seed=0, settings={"data": data, "fit_steps": steps})


def exactness(load_config: Path, draws: int = 20) -> None:
    """How exactly the trained encoder and field commute with their group, and do not mind the order of views.

    Args:
        load_config: the run's config.yml.
        draws: motions for each group and precision.
    """
    run = eval_setup(load_config, test_mode="test")
    pipeline = run[1]
    weights, model = pipeline.model.state_dict(), pipeline.model
    samples = list(pipeline.datamanager.eval_samples(4))
    precisions = ((torch.float32, torch.float32), (torch.float32, torch.float64), (torch.float64,) * 2)
    figures: dict[str, dict[str, float]] = defaultdict(lambda: {"largest": 0.0})
    for group in ("se3", "so3", "azimuth"):
        for dtype, of_cameras in precisions:
            config = replace(model.config.encoder, group=group)
            errors = defaultdict(list)
            with default_dtype(dtype):
                encoder = rebuilt(config.setup, part_of(weights, "encoder."))
                field = rebuilt(
                    lambda: model.config.decoder.setup(geometry_dim=model.config.encoder.geometry_dim),
                    part_of(weights, "field."),
                )
                for draw in range(draws):
                    views = cast_views(samples[draw % len(samples)].context, dtype, of_cameras)
                    for name, error in _errors(encoder, field, views, group, draw).items():
                        errors[name].append(error)
            line = [f"{name} {np.median(e):.1e} median, {max(e):.1e} most" for name, e in errors.items()]
            print(f"{group}, {dtype}, cameras {of_cameras}: " + "; ".join(line), flush=True)
            name = str(dtype).removeprefix("torch.")
            row = figures[name if dtype == of_cameras else f"{name}, cameras in float64"]
            row[group] = max(max(e) for name, e in errors.items() if "PSNR" not in name)
            row["largest"] = max(row["largest"], row[group])
            row |= {f"{group}, {name}": [float(np.median(e)), max(e)] for name, e in errors.items()}
    record("prior_exactness", figures, settings={"draws": draws, **_settings(load_config, run)})


@torch.no_grad()
def rotated(load_config: Path) -> None:
    """PSNR on unseen views of unseen scenes, each as it is and turned with its cameras by a random rotation.

    Args:
        load_config: config.yml of a run with the group so3.
    """
    run = eval_setup(load_config, test_mode="test")
    pipeline = run[1]
    model = pipeline.model
    figures: dict[str, dict[str, float]] = {"as they are": {}, "turned": {}}
    print("| context views | as they are | turned | drop |")
    print("|---|---|---|---|")
    for count in COUNTS:
        found = defaultdict(list)
        for i, sample in enumerate(pipeline.datamanager.eval_samples(count)):
            torch.manual_seed(i)
            turns = {"is": torch.tensor([1.0, 0, 0, 0]), "turned": quat_normalize(torch.randn(4))}
            views = sample.targets[0][1]
            for name, turn in turns.items():
                pose = turn, torch.zeros(3)
                shown = model.render(model.encoder(sample.context.move(pose)), views.move(pose)).rgb
                found[name].append(psnr(shown, over_white(views)))
        before, after = np.mean(found["is"]), np.mean(found["turned"])
        print(f"| {count} | {before:.3f} | {after:.3f} | {before - after:+.3f} |", flush=True)
        figures["as they are"][str(count)], figures["turned"][str(count)] = float(before), float(after)
    settings = {"group": model.config.encoder.group, **_settings(load_config, run)}
    record("prior_rotated", figures, settings=settings)


@torch.no_grad()
def clouds(load_config: Path, counts: tuple[int, ...] = (4, 8)) -> None:
    """PSNR on unseen views of unseen scenes, from so many views and from the coloured cloud of their hull.

    Args:
        load_config: config.yml of a run with `from_points`.
        counts: numbers of views.
    """
    run = eval_setup(load_config, test_mode="test")
    pipeline = run[1]
    model = pipeline.model
    encoder = model.config.encoder
    figures: dict[str, dict[str, float]] = defaultdict(dict)
    print("| views | encoded | points of their hull | encoded |")
    print("|---|---|---|---|")
    for count in counts:
        found = defaultdict(list)
        for sample in pipeline.datamanager.eval_samples(count):
            centre = model.encoder.centre(sample.context)
            points = hull_points(sample.context, centre, encoder.radius, encoder.proposals.cells // 2)
            views = sample.targets[0][1]
            found["points"].append(len(points))
            for name, latent in (
                ("views", model.encoder(sample.context)),
                ("cloud", model.latent_of_cloud(points)),
            ):
                found[name].append(psnr(model.render(latent, views).rgb, over_white(views)))
        means = {name: np.mean(values) for name, values in found.items()}
        print(
            f"| {count} | {means['views']:.2f} | {means['points']:.0f} | {means['cloud']:.2f} |", flush=True
        )
        for name, key in (("views", "views"), ("cloud of their hull", "cloud"), ("points", "points")):
            figures[name][str(count)] = float(means[key])
    record("prior_clouds", figures, settings=_settings(load_config, run))


@torch.no_grad()
def _errors(encoder, field, views: Views, group: str, seed: int) -> dict[str, float]:
    """‖h(g·X) − g·h(X)‖ / ‖h(X)‖, the same of f ∘ h and another order of views; and of images."""
    generator = torch.Generator().manual_seed(seed)
    motion = random_motion(group, generator, views.viewmats.dtype)
    views = exact_rotations(views)
    latent, turned = encoder(views), encoder(views.move(motion))
    gaussians, moved = shown(field, latent), shown(field, turned)
    rounded = motion[0].to(latent.quats), motion[1].to(latent.quats)
    expected = gaussians.move(rounded)
    order = torch.randperm(len(views), generator=generator)
    errors = {
        "order of views": latent_distance(encoder(views.select(order)), latent),
        "h": latent_distance(turned, latent.turn_world(rounded)),
        "f∘h": gaussians_distance(moved, expected),
    }
    if gaussians.means.dtype == torch.float32:
        cameras = (cast_views(v, torch.float32) for v in (views, views.move(motion)))
        images = [draw(g, v) for g, v in zip((gaussians, moved), cameras, strict=True)]
        errors["10^(−PSNR/10) of images"] = float((images[0] - images[1]).square().mean())
    return errors


def cost(repeats: int = 5, plot: Path | None = None) -> None:
    """Milliseconds and memory of encoder and decoder, forward and backward, by points and tokens.

    Memory is that of the values kept for the backward pass; on CUDA, the most that was allocated.

    Args:
        repeats: the fastest of so many counts.
        plot: a image to draw, both axes logarithmic.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = LatentEncoderConfig().setup().to(device)
    decoder = LatentGaussianFieldConfig().setup(geometry_dim=encoder.config.geometry_dim).to(device)
    curves, figures = {}, {}
    for name, sizes in {"points": (500, 1000, 2000, 4000, 8000), "tokens": (64, 128, 256, 512, 1024)}.items():
        spent, kept = [], []
        for size in sizes:
            points = torch.randn(size if name == "points" else 8000, 3, device=device)
            cloud = Points(points / points.norm(dim=1, keepdim=True), torch.rand_like(points))
            count = 256 if name == "points" else size

            def run(cloud: Points = cloud, count: int = count) -> Tensor:
                gaussians = shown(decoder, encoder(None, cloud, count))
                return gaussians.means.sum() + gaussians.sh.sum()

            kept.append(_megabytes_kept(run))
            times = []
            for _ in range(repeats + 1):
                start = time.perf_counter()
                run().backward()
                if device == "cuda":
                    torch.cuda.synchronize()
                times.append(1e3 * (time.perf_counter() - start))
            spent.append(min(times[1:]))
            print(f"{size} {name}: {spent[-1]:.0f} ms, {kept[-1]:.1f} MB")
        for unit, values in (("ms", spent), ("MB", kept)):
            slope = np.polyfit(np.log(sizes), np.log(values), 1)[0]
            print(f"slope of log {unit} over log {name}: {slope:.2f}", flush=True)
            curves[f"{name}, {unit}"] = (sizes, values)
            found = {f"{unit} at {size}": value for size, value in zip(sizes, values, strict=True)}
            figures[f"{name}, {unit}"] = {**found, "slope": float(slope)}
    settings = {"device": device, "threads": torch.get_num_threads(), "repeats": repeats}
    record("prior_cost", figures, settings=settings)
    if plot is not None:
        figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
        for axis, unit in zip(axes, ("ms", "MB"), strict=True):
            for name in ("points", "tokens"):
                axis.loglog(*curves[f"{name}, {unit}"], "o-", label=name)
            axis.set(xlabel="number", ylabel=unit)
            axis.legend()
        figure.savefig(plot, dpi=150)
        print(f"Plot: {plot}")


@torch.no_grad()
def frame(tokens: int = 1024, size: int = 512, repeats: int = 30, threads: int = 2) -> None:
    """Milliseconds of a frame of a decoded scene, beside one that decodes it again, as a viewer draws it.

    Args:
        tokens: K of a random scene.
        size: width and height of the image, pixels.
        repeats: timed frames of each, in turns; the medians count.
        threads: of the kernels.
    """
    give_cores_to_kernels()
    SHARED.threads = threads
    torch.manual_seed(0)
    encoder = LatentEncoderConfig().setup().eval()
    field = LatentGaussianFieldConfig().setup(geometry_dim=encoder.config.geometry_dim)
    points = torch.nn.functional.normalize(torch.randn(4 * tokens, 3), dim=1)
    latent = encoder(None, Points(points, torch.rand_like(points)), tokens)
    focal = 1.39 * size
    K = torch.tensor([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]]])
    viewmat = torch.eye(4)[None].clone()
    viewmat[0, 2, 3] = 4.0
    views, kept, times = Views(viewmat, K, size, size), field(latent), defaultdict(list)
    for i in range(repeats + 3):
        for name in ("decoded once", "decoded each frame"):
            start = time.perf_counter()
            rigged = kept if name == "decoded once" else field(latent)
            draw(pose(rigged, latent.poses, latent.light), views)
            if i >= 3:
                times[name].append(1e3 * (time.perf_counter() - start))
    figures: dict[str, float] = {name: float(np.median(spent)) for name, spent in times.items()}
    figures["ratio"] = figures["decoded once"] / figures["decoded each frame"]
    print("; ".join(f"{name} {value:.2f}" for name, value in figures.items()))
    settings = {"tokens": tokens, "size": size, "threads": threads, "repeats": repeats}
    record("prior_frame", figures, seed=0, settings=settings)


def _megabytes_kept(run: Callable[[], Tensor]) -> float:
    """What a forward pass keeps for the backward one; on CUDA, the most that both have allocated."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        run().backward()
        return torch.cuda.max_memory_allocated() / 2**20
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        held = run()
    del held
    return sum(kept.values()) / 2**20


# ---------------------------------------------------------------- baselines


def nearest_scene(train: Iterable[Views], context: Views, targets: Views) -> Tensor:
    """Images of the training scene whose views look most like the context, from the nearest cameras."""
    found = []
    for views in train:
        likest = over_white(views)[nearest_cameras(views, context)]
        error = (likest - over_white(context)).square().mean()
        found.append((float(error), views))
    best = min(found, key=lambda pair: pair[0])[1]
    return over_white(best)[nearest_cameras(best, targets)]


def nearest_cameras(views: Views, like: Views) -> Tensor:
    """For each camera of `like` the one that looks in the most similar direction."""
    return (like.viewmats[:, 2, :3] @ views.viewmats[:, 2, :3].mT).argmax(1)


def fitted(context: Views, targets: Views, steps: int, count: int = 3000) -> Tensor:
    """Gaussians that start in the hull of the context and are fitted to it, from the target cameras."""
    torch.manual_seed(0)
    single = [context.select(slice(i, i + 1)) for i in range(len(context))]
    box = torch.tensor([[-1.25] * 3, [1.25] * 3])
    points = sample_visual_hull(single, box, count)
    field = BoundGaussians(len(points), 1, 0)
    field.initialize(points, mean_colors(single, points), 0.5)
    rates = {
        "means": 1e-3,
        "scales": 5e-3,
        "quats": 1e-3,
        "opacities": 5e-2,
        "features_dc": 5e-3,
        "features_rest": 1e-4,
    }
    optimizer = torch.optim.Adam([{"params": [field.params[k]], "lr": lr} for k, lr in rates.items()])
    for step in range(steps):
        view, background = single[step % len(single)], torch.rand(3)
        optimizer.zero_grad()
        seen = view.over(background)
        photometric_loss(draw(field.rest(), view, background)[0], seen[0]).backward()
        optimizer.step()
    with torch.no_grad():
        return draw(field.rest(), targets)


# ---------------------------------------------------------------- images and motions of the world


def shown(field: Field, latent: SceneLatent) -> Gaussians:
    """The scene of a latent at rest."""
    return pose(field(latent), latent.poses, latent.light)


def draw(gaussians: Gaussians, views: Views, background: Tensor | None = None) -> Tensor:
    """Images from the cameras of views, over white unless told otherwise."""
    rasterizer = create_rasterizer("auto", views.viewmats.device)
    color = torch.ones(3) if background is None else background
    backgrounds = color.expand(len(views), 3)
    size = views.width, views.height
    return rasterizer(gaussians, views.viewmats, views.Ks, *size, backgrounds=backgrounds).rgb


def over_white(views: Views) -> Tensor:
    """Images over white."""
    return views.over(torch.ones(3))


def psnr(shown: Tensor, seen: Tensor) -> float:
    """Mean over images, in dB."""
    return float((-10 * (shown.clamp(0, 1) - seen).square().mean((1, 2, 3)).log10()).mean())


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    tyro.extras.subcommand_cli_from_dict(
        {
            "scores": scores,
            "baselines": baselines,
            "exactness": exactness,
            "rotated": rotated,
            "clouds": clouds,
            "cost": cost,
            "frame": frame,
        }
    )
