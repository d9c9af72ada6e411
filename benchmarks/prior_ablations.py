"""What parts of nest-prior are worth: variants that are trained for so many minutes each, on held-out scenes.

python benchmarks/prior_ablations.py --data ../shared/data/scenes --minutes 20 --variants base plain

base: as it is. plain: the layers of e3nn exchanged for ordinary ones of equal size, which are shown every
scene in all azimuths instead. no-edits: no state is a target of another. fixed-weights: tasks are added as
they are. so3: no word of gravity. per-category: one model for each category; these share the minutes.
"""

from __future__ import annotations

import json
import tempfile
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from e3nn import o3
from jaxtyping import Float, Int
from nerfstudio.scripts.train import _set_random_seed
from results import record
from torch import Tensor, nn

from nest_nerfstudio.data.scenes.index import read_index
from nest_nerfstudio.encoders.latent_encoder import LatentEncoder, LatentEncoderConfig
from nest_nerfstudio.method_configs.nest_prior import nest_prior
from nest_nerfstudio.pipelines.trainer import NestTrainerConfig
from nest_nerfstudio.thread_pool import SHARED

VARIANTS = ("base", "plain", "no-edits", "fixed-weights", "so3", "per-category")
EDITS = ("light", "hue", "yaw", "translate")


@dataclass
class Ablations:
    """Train the variants one after another, each in one process, and print a row of scores for each."""

    data: Path
    """Folder with scenes.json."""
    minutes: float = 20.0
    """Of training, for each variant."""
    variants: tuple[str, ...] = VARIANTS
    """Which ones."""
    threads: int = 2
    """Threads of the kernels."""
    output: Path = Path("benchmarks/out")
    """Where runs are written."""

    def main(self) -> None:
        SHARED.threads = self.threads
        unknown = set(self.variants) - set(VARIANTS)
        if unknown:
            raise SystemExit(f"there is no variant {unknown.pop()}; there are: {', '.join(VARIANTS)}")
        print("| variant | weights of the encoder | steps | 1 view | 2 views | 4 views | 8 views | edits |")
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for variant in self.variants:
            parts = self._categories() if variant == "per-category" else [self.data]
            found = [self._run(variant, part, self.minutes / len(parts)) for part in parts]
            scenes = [len(read_index(part).split("val")) for part in parts]
            mean = {
                key: float(np.average([scores[key] for scores in found], weights=scenes)) for key in found[0]
            }
            shown = [f"{mean[key]:.2f}" for key in ("1", "2", "4", "8", "edits")]
            print(
                f"| {variant} | {mean['weights']:.0f} | {mean['steps']:.0f} |",
                " | ".join(shown),
                "|",
                flush=True,
            )
            settings = {
                "variant": variant,
                "data": self.data,
                "minutes": self.minutes,
                "threads": self.threads,
            }
            record("prior_ablations", mean, seed=42, settings=settings)

    def _run(self, variant: str, data: Path, minutes: float) -> dict[str, float]:
        """PSNR by number of context views; edits: the mean over kinds of edits, from 4 views."""
        _set_random_seed(42)
        config = make_config(variant)
        config.data = config.pipeline.datamanager.data = data
        config.output_dir, config.max_minutes = self.output, minutes
        config.experiment_name = f"{variant}-{data.name}"
        config.set_timestamp()
        config.save_config()
        trainer = config.setup()
        trainer.setup()
        trainer.train()
        pipeline = trainer.pipeline
        scores = pipeline.get_average_eval_image_metrics()
        return {
            "weights": sum(p.numel() for p in pipeline.model.encoder.parameters()),
            "steps": trainer.step + 1,
            "edits": float(np.mean([scores[f"psnr/4_views/{edit}"] for edit in EDITS])),
            **{str(n): scores[f"psnr/{n}_views"] for n in (1, 2, 4, 8)},
        }

    def _categories(self) -> list[Path]:
        """A folder for each category, with links to its scenes."""
        index = read_index(self.data)
        folders = []
        for category in sorted({entry.category for entry in index.entries}):
            folder = Path(tempfile.mkdtemp()) / category
            folder.mkdir()
            entries = [entry for entry in index.entries if entry.category == category]
            for entry in entries:
                (folder / entry.name).symlink_to(entry.folder.resolve())
            listed = [{"name": entry.name, "category": category} for entry in entries]
            (folder / "scenes.json").write_text(json.dumps({"scenes": listed}))
            folders.append(folder)
        return folders


def make_config(variant: str) -> NestTrainerConfig:
    """nest-prior, changed in what the variant is about."""
    config = deepcopy(nest_prior.config)
    assert isinstance(config, NestTrainerConfig)
    config.vis, config.steps_per_eval_image = "tensorboard", 0
    model, data = config.pipeline.model, config.pipeline.datamanager
    model.refine_steps = 0
    if variant == "plain":
        model.encoder._target = PlainEncoder
        data.augmentation = replace(data.augmentation, azimuth=1.0)
    if variant == "no-edits":
        data.edit_states = 0
    if variant == "fixed-weights":
        model.learn_weights = False
    if variant == "so3":
        model.encoder.group = "so3"
    return config


class PlainEncoder(LatentEncoder):
    """The encoder with ordinary layers for those of e3nn: as many numbers a token, and about as many weights.

    Vectors enter as the numbers that they are in the world's frame, so nothing holds it to any symmetry.
    """

    def __init__(self, config: LatentEncoderConfig) -> None:
        super().__init__(config)
        most = sum(p.numel() for p in self.parameters())
        inside, sent = (int(o3.Irreps(text).dim) for text in (config.irreps, config.irreps_sent))
        self.embed = nn.Linear(int(self.embed.irreps_in.dim), inside)
        self.to_vectors, self.to_light = nn.Linear(inside, 9), nn.Linear(inside, 27)
        for hidden in range(16, 1024, 8):  # the narrowest that has no fewer weights
            self.interactions = nn.ModuleList(
                PlainInteraction(inside, sent, hidden) for _ in range(config.num_interactions)
            )
            if sum(p.numel() for p in self.parameters()) >= most:
                break


class PlainInteraction(nn.Module):
    """x_i ← x_i + SiLU(W x_i + Σ_j s_ij MLP(x_i, x_j, Y(r_ij), |r_ij|))."""

    def __init__(self, inside: int, sent: int, hidden: int) -> None:
        super().__init__()
        self.send, self.keep = nn.Linear(inside, sent), nn.Linear(inside, inside)
        self.message = nn.Sequential(
            nn.Linear(2 * sent + 9 + 8, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, inside)
        )

    def forward(
        self,
        x: Float[Tensor, "k d"],
        neighbors: Int[Tensor, "k j"],
        shares: Float[Tensor, "k j"],
        harmonics: Float[Tensor, "k j m"],
        radial: Float[Tensor, "k j r"],
    ) -> Float[Tensor, "k d"]:
        told = self.send(x)
        here = told[:, None].expand(-1, neighbors.shape[1], -1)
        messages = self.message(torch.cat([here, told[neighbors], harmonics, radial], -1))
        return x + nn.functional.silu(self.keep(x) + (shares[..., None] * messages).sum(1))


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    tyro.cli(Ablations).main()
