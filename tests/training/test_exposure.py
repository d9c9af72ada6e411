"""Images whose exposure varies: what they share is the scene's, what differs is theirs."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from nest_nerfstudio.models.nest_dynamic_config import NestDynamicModelConfig
from nest_nerfstudio.pipelines.trainer import NestTrainer
from nest_nerfstudio.training.exposure import Exposure, distance_from_identity
from tests.small_run import make_config, make_trainer
from tests.small_yard import floor, view, write_yard

GAINS = torch.tensor([0.7, 1.2, 0.9, 1.3, 0.8, 1.1])  # of mean one


def write_varying_yard(folder: Path) -> Path:
    """A floor seen by one camera; train frames have gains, those between them, for evaluation, do not."""
    write_yard(folder, 18)
    transforms = json.loads((folder / "transforms.json").read_text())
    names = [frame["file_path"] for frame in transforms["frames"]]
    held_out = names[2::6]
    train = [name for name in names if name not in held_out]
    for frame in transforms["frames"]:
        name = frame["file_path"]
        images = view(frame["time"], floor()).images
        assert images is not None
        gain = 1.0 if name in held_out else float(GAINS[train.index(name) % len(GAINS)])
        pixels = (0.7 * gain * images[0]).clamp(0, 1) * 255
        Image.fromarray(pixels.round().byte().numpy()).save(folder / name)
    splits = {"train_filenames": train, "val_filenames": held_out, "test_filenames": held_out}
    (folder / "transforms.json").write_text(json.dumps(transforms | splits))
    return folder


def test_starts_as_the_identity_and_what_images_share_is_taken_out() -> None:
    exposure = Exposure(3)
    assert torch.equal(exposure(1), torch.eye(3, 4)[None])
    assert distance_from_identity(exposure(1)) == 0
    with torch.no_grad():
        exposure.adjustment.copy_(torch.randn(3, 3, 4))
    differences = exposure(0) - exposure(2)
    exposure.without_drift()
    torch.testing.assert_close(exposure.adjustment.mean(0), torch.zeros(3, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(exposure(0) - exposure(2), differences)
    assert distance_from_identity(exposure(0)) > 0


def train(folder: Path, output: Path, exposure: bool) -> NestTrainer:
    config = make_config(folder, output, 150, motion="static", exposure=exposure, num_random=300)
    cast(NestDynamicModelConfig, config.pipeline.model).curriculum.num_downscales = 0
    trainer = make_trainer(config)
    trainer.train()
    trainer.pipeline.eval()
    return trainer


@pytest.mark.slow
def test_frames_of_varying_exposure_give_a_better_scene_with_it(tmp_path: Path) -> None:
    folder = write_varying_yard(tmp_path / "yard")
    without, trainer = (train(folder, tmp_path / f"{on}", on) for on in (False, True))
    pipeline = cast(Any, trainer.pipeline)
    psnr = [cast(Any, run.pipeline).get_average_eval_image_metrics()["psnr"] for run in (without, trainer)]
    assert psnr[1] > psnr[0] + 1

    adjustment = pipeline.model.exposure.adjustment.detach()
    gains = 1 + adjustment[:, :, :3].sum((1, 2)) / 3
    seen = torch.corrcoef(torch.stack([gains, GAINS.repeat(3)[: len(gains)]]))[0, 1]
    assert seen > 0.9

    pipeline.eval()
    assert pipeline._view(0).exposures is None
    pipeline.train()
    assert torch.equal(pipeline._view(1).exposures[0], torch.eye(3, 4) + adjustment[1])
    (stored,) = (trainer.base_dir / "nerfstudio_models").glob("*.ckpt")
    state = torch.load(stored, map_location="cpu", weights_only=True)["pipeline"]
    torch.testing.assert_close(state["_model.exposure.adjustment"], adjustment)
