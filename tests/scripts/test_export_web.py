"""`nest-export web`: what is in the page, how exact it is, and which runs it takes."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from nest_nerfstudio.models.decoded_scene import DecodedScene
from nest_nerfstudio.models.playable import playable
from nest_nerfstudio.scripts.export_web import web
from tests.scripts.playable_scenes import FakeModel, make_bound, make_scene
from tests.scripts.runs import fake_run

Open = Callable[[DecodedScene], SimpleNamespace]


@pytest.fixture
def run_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    return lambda scene: fake_run(tmp_path, monkeypatch, FakeModel(scene), FakeModel)


def unpacked(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a page, as the player reads them."""
    found = re.search(r'<script id="scene"[^>]*>([^<]*)<', path.read_text())
    assert found is not None
    data = gzip.decompress(base64.b64decode(found[1]))
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    arrays = {}
    for name, place in header["arrays"].items():
        stored = np.frombuffer(
            data, place["type"], int(np.prod(place["shape"])), 4 + length + place["offset"]
        )
        columns = stored.reshape(place["shape"][0], -1).astype(np.float64)
        if "low" in place:
            columns = columns * place["step"] + place["low"]
        arrays[name] = columns.reshape(place["shape"])
    return header, arrays


def test_gaussians_are_there_within_their_quantisation(run_of: Open, tmp_path: Path) -> None:
    scene = make_scene("cyclic")
    (page,) = web(run_of(scene).config, tmp_path / "page.html")
    arrays, rest = unpacked(page)[1], scene.rigged.rest
    quats = torch.nn.functional.normalize(rest.quats, dim=1)
    for name, wanted, error in [
        ("means", rest.means, 1e-6),
        ("quats", quats, 2e-5),
        ("log_scales", rest.log_scales, 1e-4),
        ("opacities", rest.opacities, 1e-5),
        ("sh", rest.sh[:, 1:], 1e-3),
        ("weights", scene.rigged.weights, 1e-5),
        ("modes", scene.latent.motion.modes, 1e-6),
        ("drift", scene.latent.motion.drift, 1e-6),
    ]:
        assert np.abs(arrays[name] - wanted.detach().numpy()).max() < error, name
    np.testing.assert_array_equal(arrays["rig_tokens"], scene.rigged.tokens)


def test_what_stands_still_moves_in_no_page(run_of: Open, tmp_path: Path) -> None:
    (page,) = web(run_of(make_scene("backed")).config, tmp_path / "page.html")
    arrays = unpacked(page)[1]
    for name in ("modes", "drift"):
        assert (arrays[name][-1] == 0).all(), name
        assert (arrays[name][:-1] != 0).any(axis=tuple(range(1, arrays[name].ndim))).all(), name


def test_the_page_is_one_file_that_asks_for_nothing(run_of: Open, tmp_path: Path) -> None:
    (page,) = web(run_of(make_scene("cyclic")).config, tmp_path / "new" / "page.html")
    assert [entry.name for entry in page.parent.iterdir()] == ["page.html"]
    text = re.sub(
        r'<script id="(scene|player)".*?</script>|<!--.*?-->', "", page.read_text(), flags=re.DOTALL
    )
    assert not re.search(r"https?:|src=|href=", text)
    assert "{{" not in text
    licences = re.findall(r"<!--.*?-->", page.read_text(), flags=re.DOTALL)[0]
    for part in ("@sparkjsdev/spark", "three"):
        assert part in licences


@pytest.mark.parametrize("sh_degree", [1, 3])
def test_twenty_thousand_gaussians_are_at_most_two_megabytes(
    run_of: Open, tmp_path: Path, sh_degree: int
) -> None:
    field, latent = make_bound(20_000, sh_degree)
    scene = make_scene("cyclic")
    scene.rigged = field(latent)
    (page,) = web(run_of(scene).config, tmp_path / "page.html")
    text = re.findall(r'<script id="scene"[^>]*>([^<]*)<', page.read_text())[0]
    modes = 512 * scene.latent.motion.modes[0].numel() * 4  # of as many tokens as a run has
    assert len(base64.b64decode(text)) + modes < 2e6


@pytest.mark.parametrize("kind", ["still", "cyclic", "free", "looped", "unsettled"])
def test_how_it_moves(run_of: Open, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture) -> None:
    scene = make_scene(kind)
    header, arrays = unpacked(web(run_of(scene).config, tmp_path / "page.html", t0=-0.5, t1=2.5)[0])
    motion, said = header["motion"], capsys.readouterr().out
    assert header["time"]["endless"] == (kind in ("cyclic", "looped"))
    assert motion["kind"] == {"still": "still", "cyclic": "orbit"}.get(kind, "table")
    assert ("nothing moves beyond the clip" in header["time"]["note"]) == (kind == "unsettled")
    assert ("nothing moves beyond the clip" in " ".join(said.split())) == (kind == "unsettled")
    assert ("does not move" in said) == (kind == "still")
    if kind == "free":
        assert motion["first"] <= -0.5
        assert motion["last"] >= 2.5
        assert len(arrays["states"]) == (motion["last"] - motion["first"]) * 32 + 1
    assert header["camera"]["position"] == [0.0, -4.0, 0.0]
    assert math.tan(math.radians(header["camera"]["fov"] / 2)) == pytest.approx(60 / 2 / 120)
    assert header["background"] == pytest.approx([1.0, 0.9, 0.8])


def test_a_free_curve_becomes_linear_in_its_principal_components() -> None:
    scene = make_scene("unsettled")
    played = playable(scene, -1.0, 3.0)
    assert played.path is not None
    for time in (0.0, 0.37, 0.81, 1.0, 1.4):
        z = torch.cat([played.path(torch.tensor(time)), torch.ones(1)])
        own = scene.dynamics.solve(scene.latent.motion)(torch.tensor(time))
        wanted = scene.dynamics.twists(scene.latent, own)
        assert (played.modes @ z - wanted).abs().max() < 2e-3 * wanted.abs().max()


def test_fewer_gaussians_are_those_that_cover_most(run_of: Open, tmp_path: Path) -> None:
    scene = make_scene("cyclic")
    rest = scene.rigged.rest
    rest.scales[:100] *= 0.01
    run = run_of(scene)
    arrays = unpacked(web(run.config, tmp_path / "page.html", max_gaussians=300)[0])[1]
    np.testing.assert_allclose(arrays["means"], rest.means[100:].detach(), atol=1e-6)
    assert arrays["rig_tokens"].shape == (300, 4)


def test_too_many_gaussians_are_told(
    run_of: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("nest_nerfstudio.scripts.export_web.MANY", 399)
    web(run_of(make_scene("still")).config, tmp_path / "page.html")
    assert "--max-gaussians 399" in capsys.readouterr().out


def test_gaussians_that_are_not_finite_are_left_out(
    run_of: Open, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    scene = make_scene("still")
    scene.rigged.rest.means.data[3] = torch.nan
    assert len(unpacked(web(run_of(scene).config, tmp_path / "page.html")[0])[1]["means"]) == 399
    assert "left out 1 of 400" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"t0": 0.5}, "--t0"), ({"t1": float("nan")}, "--t1"), ({"max_gaussians": 0}, "--max-gaussians 0")],
)
def test_bad_arguments(run_of: Open, tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        web(run_of(make_scene("still")).config, tmp_path / "page.html", **arguments)
    assert not (tmp_path / "page.html").exists()


def test_what_only_its_model_can_play_is_refused(run_of: Open, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="by an MLP"):
        web(run_of(make_scene("deformed")).config, tmp_path / "page.html")


def test_a_folder_that_cannot_be_written(
    run_of: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told before the run is loaded."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot make the folder of"):
        web(tmp_path / "no run", tmp_path / "file" / "page.html")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(OSError, match="choose another folder"):
        web(tmp_path / "no run", tmp_path / "page.html")


class ManyModel(FakeModel):
    """A model of many scenes, which are all the same."""

    def scene(self, number: int, num_views: int, refined: bool) -> DecodedScene:  # type: ignore[override]
        return self.decoded

    def scene_of_cloud(self, points: Any) -> DecodedScene:
        return self.decoded


def test_a_page_for_each_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, monkeypatch, ManyModel(make_scene("lit")), FakeModel)
    entries = [SimpleNamespace(name=name) for name in ("a moon", "b")]
    manager = SimpleNamespace(
        index=SimpleNamespace(entries=entries), held_out=[0, 1], train_dataparser_outputs=None
    )
    setup = sys.modules["nerfstudio.utils.eval_utils"].eval_setup

    def eval_setup(*arguments: Any, **options: Any) -> tuple:
        config, pipeline, *rest = setup(*arguments, **options)
        pipeline.datamanager = manager
        return config, pipeline, *rest

    monkeypatch.setattr(sys.modules["nerfstudio.utils.eval_utils"], "eval_setup", eval_setup)
    pages = web(run.config, tmp_path / "page.html")
    assert [page.name for page in pages] == ["page_a_moon.html", "page_b.html"]
    header, arrays = unpacked(pages[0])
    assert header["lit"]
    assert header["title"] == "a moon"
    shown = run.scene.decoded.gaussians_at(
        0.0
    ).means  # not where they are at rest, in the frames of their tokens
    eye, target = (torch.tensor(header["camera"][name]) for name in ("position", "target"))
    angles = torch.cosine_similarity(shown - eye, (target - eye)[None]).clamp(-1, 1).acos().rad2deg()
    assert 0.7 < angles.quantile(0.95) / (header["camera"]["fov"] / 2) < 1
    assert {"albedo", "transfer", "light"} < arrays.keys()
