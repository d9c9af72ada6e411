"""`nest-export usd` and `4dgs`: moments, names, and which runs they take."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nest_nerfstudio.io.fourdgs import read_fourdgs
from nest_nerfstudio.io.usd import read_usd
from nest_nerfstudio.scripts.export_sequence import Sampling, fourdgs, usd
from tests.scripts.playable_scenes import FakeModel, make_scene
from tests.scripts.runs import fake_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    return fake_run(tmp_path, monkeypatch, FakeModel(make_scene("cyclic")), FakeModel)


def test_usd_holds_the_model_at_each_moment(run: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("pxr", reason="needs usd-core")
    (path,) = usd(run.config, tmp_path / "new" / "scene.usdc", Sampling(num_times=5, t1=2.0))
    for time in (0.0, 0.5, 2.0):
        found, wanted = read_usd(path, 3 * time), run.scene.decoded.gaussians_at(time)
        torch.testing.assert_close(found.means, wanted.means, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.sh, wanted.sh, rtol=1e-5, atol=1e-6)


def test_fourdgs_lasts_as_long_as_asked(run: SimpleNamespace, tmp_path: Path) -> None:
    pytest.importorskip("fourdgs", reason="needs fourdgs")
    (path,) = fourdgs(run.config, tmp_path / "scene.4dgs", Sampling(num_times=5, seconds=8.0, sh_degree=1))
    found, wanted = read_fourdgs(path, 2.0), run.scene.decoded.gaussians_at(0.25)
    assert torch.cdist(found.means, wanted.means).min(1).values.max() < 1e-2
    assert found.sh_degree == 1


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(num_times=1), "is no sequence"),
        (Sampling(t0=1.0, t1=0.0), "is no sequence"),
        (Sampling(t1=float("inf")), "is no sequence"),
        (Sampling(seconds=0.0), "--seconds"),
        (Sampling(sh_degree=4), "from 0 to 3"),
    ],
)
def test_bad_moments(run: SimpleNamespace, tmp_path: Path, sampling: Sampling, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        usd(run.config, tmp_path / "scene.usdc", sampling)
    assert not (tmp_path / "scene.usdc").exists()


def test_what_stands_still_is_refused(run: SimpleNamespace, tmp_path: Path) -> None:
    run.scene.decoded = make_scene("still")
    with pytest.raises(ValueError, match="does not move; nest-export splat"):
        fourdgs(run.config, tmp_path / "scene.4dgs")
