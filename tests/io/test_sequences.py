"""USD and .4dgs files, read back with their own libraries."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nest_nerfstudio.io.fourdgs import read_fourdgs, write_fourdgs
from nest_nerfstudio.io.usd import read_usd, write_usd
from nest_nerfstudio.types import Gaussians
from tests.io.some_gaussians import assert_same, make_gaussians

TIMES = (0.5, 1.0, 2.25, 3.0)


def frames(degree: int) -> list[tuple[float, Gaussians]]:
    """Gaussians that move and turn, with other harmonics at each moment, and colours that .4dgs can hold."""
    start = make_gaussians(200, degree)
    start = replace(start, sh=0.3 * start.sh)
    found = []
    for time in TIMES:
        turned = torch.nn.functional.normalize(
            start.quats + time * torch.tensor([0.1, 0.3, 0.0, -0.2]), dim=1
        )
        means = start.means + time * torch.tensor([1.0, 0.0, time])
        found.append((time, replace(start, means=means, quats=turned, sh=start.sh * (1 - 0.2 * time))))
    return found


@pytest.mark.parametrize("suffix", [".usdc", ".usda", ".usd"])
@pytest.mark.parametrize("degree", [0, 3])
def test_usd_at_its_times_and_between(tmp_path: Path, suffix: str, degree: int) -> None:
    pytest.importorskip("pxr", reason="needs usd-core")
    path, written = tmp_path / f"scene{suffix}", frames(degree)
    write_usd(path, written)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    for time, gaussians in written:
        assert_same(read_usd(path, time), gaussians)
    middle = read_usd(path, 0.75)
    torch.testing.assert_close(middle.means, (written[0][1].means + written[1][1].means) / 2)


def test_usd_says_which_way_is_up_and_how_long_it_lasts(tmp_path: Path) -> None:
    Usd = pytest.importorskip("pxr.Usd", reason="needs usd-core")
    UsdGeom = pytest.importorskip("pxr.UsdGeom")
    written = frames(1)
    write_usd(tmp_path / "scene.usdc", written)
    stage = Usd.Stage.Open(str(tmp_path / "scene.usdc"))
    assert UsdGeom.GetStageUpAxis(stage) == "Z"
    rate = stage.GetTimeCodesPerSecond()
    assert (stage.GetStartTimeCode() / rate, stage.GetEndTimeCode() / rate) == (TIMES[0], TIMES[-1])
    prim = stage.GetDefaultPrim()
    assert prim.GetTypeName() == "ParticleField3DGaussianSplat"
    assert prim.GetAttribute("radiance:sphericalHarmonicsDegree").Get() == 1
    low, high = prim.GetAttribute("extent").Get(TIMES[0] * rate)
    means = written[0][1].means
    assert all(low[i] < means[:, i].min() and high[i] > means[:, i].max() for i in range(3))


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_fourdgs_at_its_times_and_between(tmp_path: Path, degree: int) -> None:
    pytest.importorskip("fourdgs", reason="needs fourdgs")
    path, written = tmp_path / "scene.4dgs", frames(degree)
    write_fourdgs(path, written)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    for time, wanted in written[:-1]:
        assert_within_grid(read_fourdgs(path, time - TIMES[0]), wanted)
    (t0, first), (t1, second) = written[1:3]
    between = replace(first, means=first.means + 0.5 * (second.means - first.means))
    assert_within_grid(read_fourdgs(path, (t0 + t1) / 2 - TIMES[0]), between)


def assert_within_grid(found: Gaussians, wanted: Gaussians) -> None:
    """The file has an order of its own, and a coarse grid for harmonics, 8 / 255."""
    assert len(found) == len(wanted)
    order = torch.cdist(wanted.means, found.means).argmin(1)
    assert len(order.unique()) == len(wanted)
    found = found.select(order)
    size = wanted.scales.median()
    assert (found.means - wanted.means).abs().max() < 0.05 * size
    assert ((found.quats * wanted.quats).sum(1).abs() > 1 - 1e-4).all()
    assert (found.scales / wanted.scales - 1).abs().max() < 0.01
    assert (found.opacities - wanted.opacities).abs().max() < 0.01
    colours = wanted.sh[:, 0].clamp(-1.772, 1.772)
    assert (found.sh[:, 0] - colours).abs().max() < 0.01
    if wanted.sh_degree:
        assert (found.sh[:, 1:] - wanted.sh[:, 1:]).abs().max() < 4.01 / 255


@pytest.mark.parametrize(("write", "name", "library"), [
    (write_usd, "scene.usdc", "pxr"), (write_fourdgs, "scene.4dgs", "fourdgs")
])  # fmt: skip
def test_what_to_install_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write, name, library
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match="pip install"):
        write(tmp_path / name, frames(0))
    assert not list(tmp_path.iterdir())


def test_bad_files(tmp_path: Path) -> None:
    pytest.importorskip("pxr", reason="needs usd-core")
    pytest.importorskip("fourdgs", reason="needs fourdgs")
    with pytest.raises(ValueError, match="not named as a USD file"):
        write_usd(tmp_path / "scene.ply", frames(0))
    with pytest.raises(ValueError, match="two times or more"):
        write_fourdgs(tmp_path / "scene.4dgs", frames(0)[:1])
    with pytest.raises(ValueError, match="no USD file"):
        read_usd(tmp_path / "nothing.usdc", 0.0)
    (tmp_path / "broken.4dgs").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no \.4dgs file"):
        read_fourdgs(tmp_path / "broken.4dgs", 0.0)
