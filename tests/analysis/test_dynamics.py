"""`nest-analyze dynamics` on trained runs, and on those that it must refuse."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nest_nerfstudio.analysis.dynamics import Dynamics, principal_components, require_motion, token_speeds
from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.nest_dynamic import NestDynamicModel
from nest_nerfstudio.pipelines.trainer import NestTrainer
from tests.small_run import make_config, make_trainer


@pytest.fixture(scope="module")
def run(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> NestTrainer:
    """A run of one step, whose motion is then set by hand."""
    config = make_config(capture, tmp_path_factory.mktemp("run"), steps=1)
    config.save_config()
    return make_trainer(config)


def model_of(run: NestTrainer) -> NestDynamicModel:
    return run.pipeline.dynamic_model


def set_motion(model: NestDynamicModel, kind: str) -> None:
    """Move all tokens along x by the first number of the state, of an oscillator or of a zero field."""
    motion = model.latent().motion
    modes = torch.zeros_like(motion.modes)
    modes[:, 0, 0] = 0.1
    start = torch.zeros_like(motion.start)
    start[0] = 1
    period = torch.tensor(0.5)
    model.fitter.rolls_out.fill_(True)
    model.latent.set_motion(replace(motion, kind=kind, start=start, modes=modes, period=period))
    model.forget_scenes()


def test_cyclic_run(run: NestTrainer, tmp_path: Path) -> None:
    set_motion(model_of(run), "cyclic")
    run.save_checkpoint(0)
    command = Dynamics(run_path=run.config.get_base_dir(), output=tmp_path, samples=33, clips=2.0, images=2)
    report = command.run()
    figures = report.figures
    assert figures["motion"] == "cyclic"
    assert figures["period, clips"] == pytest.approx(0.5)
    assert figures["largest other Floquet multiplier"] == pytest.approx(1, abs=1e-3)
    assert figures["mean divergence of F, per clip"] == pytest.approx(0, abs=1e-4)
    # x = 0.1 cos(4πt): the mean of v²/2 over a cycle is (0.4π)²/4
    assert figures["mean kinetic energy of tokens"] == pytest.approx((0.4 * torch.pi) ** 2 / 4, rel=0.05)
    assert figures["last clip's energy over the first's"] == pytest.approx(1, abs=0.05)
    assert report.plots.keys() == {"dynamics"}
    assert report.rows
    assert all(row["PSNR"] > 0 for row in report.rows)


def test_speeds(run: NestTrainer) -> None:
    model = model_of(run)
    set_motion(model, "cyclic")
    scene = DecodedScene(model.latent(), model.field, model.flow)
    with torch.no_grad():
        speeds = token_speeds(scene, torch.tensor([0.0, 0.125]))
    torch.testing.assert_close(speeds[0], torch.zeros_like(speeds[0]), rtol=0, atol=2e-3)
    torch.testing.assert_close(speeds[1], torch.full_like(speeds[1], 0.4 * torch.pi), rtol=1e-2, atol=0)


def test_refuses_what_has_no_dynamics(run: NestTrainer) -> None:
    model, path = model_of(run), Path("RUN")
    model.fitter.rolls_out.fill_(False)
    with pytest.raises(ValueError, match="RUN ended before the ODE took over; train for longer"):
        require_motion(model, path)
    set_motion(model, "still")
    with pytest.raises(ValueError, match="the scene of RUN is static: its tokens do not move"):
        require_motion(model, path)
    for motion, reason in (("static", "is static"), ("mlp", "moves by a deformation MLP")):
        model.config.motion = motion  # type: ignore[assignment]
        with pytest.raises(ValueError, match=f"the scene of RUN {reason}: it has no latent ODE"):
            require_motion(model, path)
    model.config.motion = "ode"
    with pytest.raises(ValueError, match="has no dynamics of its own"):
        require_motion(torch.nn.Identity(), path)
    with pytest.raises(ValueError, match="--clips must be above 0"):
        Dynamics(run_path=path, clips=0.0).run()


def test_principal_components_keep_distances() -> None:
    states = torch.randn(20, 3)
    torch.testing.assert_close(
        torch.cdist(principal_components(states), principal_components(states)), torch.cdist(states, states)
    )
