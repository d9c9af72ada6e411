"""What motion costs: a frame and a training step with tokens on an ODE, beside the same scene still.

    python benchmarks/motion_cost.py

Frames are of a scene that is decoded and solved once, as viewer and renders show it; steps decode anew, and
solve as often as the training does. A still scene is skinned as well, by tokens that stand at rest.
"""

import statistics
import time
from dataclasses import dataclass, replace

import torch
import tyro
from results import record

from nest_nerfstudio.dynamics.fitter import LatentFlowFitterConfig
from nest_nerfstudio.dynamics.flow import LatentFlowConfig
from nest_nerfstudio.fields.bound_gaussians import COLOR_DIM, BoundGaussians
from nest_nerfstudio.fields.rig import pose
from nest_nerfstudio.losses.photometric import photometric_loss
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.latent_parameters import LatentParameters
from nest_nerfstudio.rasterizers import create_rasterizer
from nest_nerfstudio.thread_pool import SHARED, give_cores_to_kernels
from nest_nerfstudio.types import Gaussians, MotionCode, SceneLatent

COLUMNS = (
    "frame_still_ms",
    "frame_moving_ms",
    "frame_ratio",
    "step_still_ms",
    "step_moving_ms",
    "step_ratio",
    "roll_out_ms",
)


@dataclass
class MotionCost:
    """Time frames and steps of a random scene, moving and still, in turns."""

    counts: tuple[int, ...] = (1000, 5000, 20_000, 100_000)
    """Numbers of Gaussians."""
    size: int = 200
    """Width and height of the images, pixels."""
    tokens: int = 512
    """K."""
    sh_degree: int = 1
    """Degree of the spherical harmonics, which turn with the Gaussians; 1 is the default on a CPU."""
    repeats: int = 15
    """Timed runs of each; the median counts."""
    threads: int = 2
    """Threads of the kernels."""

    def main(self) -> None:
        """Print a markdown table."""
        give_cores_to_kernels()
        SHARED.threads = self.threads
        torch.set_flush_denormal(True)
        columns = "N", "frame, still (ms)", "frame, moving", "ratio", "step, still", "step, moving", "ratio"
        print("|", " | ".join((*columns, "ODE roll-out")), "|")
        print("|---|---|---|---|---|---|---|---|")
        figures = {}
        for count in self.counts:
            cells = self._measure(count)
            print(f"| {count} | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |", flush=True)
            figures[str(count)] = dict(zip(COLUMNS, cells, strict=True))
        settings = {
            name: getattr(self, name) for name in ("size", "tokens", "sh_degree", "repeats", "threads")
        }
        record("motion_cost", figures, seed=0, settings=settings)

    def _measure(self, count: int) -> list[float]:
        """What `COLUMNS` name."""
        scene = Scene(count, self.tokens, self.size, self.size, self.sh_degree)
        frames = self._compare(lambda moving: scene.frame(moving))
        steps = self._compare(lambda moving: scene.step(moving))
        roll_out = self._median(scene.roll_out)
        return [*frames, frames[1] / frames[0], *steps, steps[1] / steps[0], roll_out]

    def _compare(self, run) -> tuple[float, float]:
        """Medians of still and moving, in turns, so that a noisy machine treats both alike."""
        times: dict[bool, list[float]] = {False: [], True: []}
        for i in range(self.repeats + 3):
            for moving in (False, True):
                spent = _seconds(lambda moving=moving: run(moving))
                if i >= 3:
                    times[moving].append(spent)
        return 1e3 * statistics.median(times[False]), 1e3 * statistics.median(times[True])

    def _median(self, run) -> float:
        return 1e3 * statistics.median(_seconds(run) for _ in range(self.repeats))


class Scene:
    """A ball of Gaussians of radius 1 with tokens in it, and one camera; from near it fills the image."""

    def __init__(
        self, count: int, tokens: int, width: int, height: int, sh_degree: int, distance: float = 4.0
    ) -> None:
        torch.manual_seed(0)
        config = LatentFlowConfig()
        self.size, self.rasterizer = (width, height), create_rasterizer("auto", "cpu")
        self.field = BoundGaussians(count, tokens, sh_degree)
        points = torch.nn.functional.normalize(torch.randn(count, 3), dim=1) * torch.rand(count, 1) ** (1 / 3)
        self.field.initialize(points, torch.rand(count, 3), opacity=0.5, scale_factor=0.7)
        latent = _random_latent(tokens, config.state_dim)
        self.field.bind(latent.poses)
        self.latents = {kind: LatentParameters(_of_kind(latent, kind), ("motion",)) for kind in (False, True)}
        self.flow = config.setup()
        self.fitter = LatentFlowFitterConfig().setup(flow=config, num_tokens=tokens)
        self.fitter.rolls_out.fill_(True)
        with torch.no_grad():
            self.scenes = {kind: DecodedScene(z(), self.field, self.flow) for kind, z in self.latents.items()}
        self.viewmat = torch.eye(4)[None].clone()
        self.viewmat[0, 2, 3] = distance
        focal = 1.39 * width
        self.K = torch.tensor([[[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]]])
        self.target = torch.rand(height, width, 3)
        learned = (self.field, self.flow, self.latents[True])
        parameters = [parameter for module in learned for parameter in module.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-9, fused=True)

    @torch.no_grad()
    def frame(self, moving: bool) -> None:
        self.draw(self.scenes[moving].gaussians_at(torch.rand(())))

    def step(self, moving: bool, loss=photometric_loss) -> None:
        self.optimizer.zero_grad()
        latent = self.latents[moving]()
        poses = latent.poses
        if moving:
            poses = self.flow.poses(latent, self.fitter.path(self.flow, latent.motion), torch.rand(()))
        image = self.draw(pose(self.field(latent), poses, latent.light))
        loss(image, self.target).backward()
        self.optimizer.step()

    def roll_out(self) -> None:
        self.flow.roll_out(self.latents[True]().motion.start)

    def draw(self, gaussians: Gaussians) -> torch.Tensor:
        return self.rasterizer(gaussians, self.viewmat, self.K, *self.size).rgb[0]


def _random_latent(tokens: int, state_dim: int) -> SceneLatent:
    """Tokens on a sphere."""
    translations = 0.7 * torch.nn.functional.normalize(torch.randn(tokens, 3), dim=1)
    motion = MotionCode.still(tokens, translations, state_dim)
    modes = 0.02 * torch.randn_like(motion.modes)
    return SceneLatent(
        ids=torch.arange(tokens),
        copies=torch.zeros(tokens, dtype=torch.long),
        quats=torch.tensor([1.0, 0, 0, 0]).repeat(tokens, 1),
        translations=translations,
        geometry=torch.zeros(tokens, 0),
        appearance=torch.zeros(tokens, COLOR_DIM),
        light=torch.zeros(3, 9),
        motion=replace(motion, modes=modes),
    )


def _of_kind(latent: SceneLatent, moving: bool) -> SceneLatent:
    return replace(latent, motion=replace(latent.motion, kind="free" if moving else "still"))


def _seconds(run) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


if __name__ == "__main__":
    tyro.cli(MotionCost).main()
