"""The map of a prior on itself."""

from pathlib import Path

import pytest
import torch

from nest_nerfstudio.analysis.attractors import Attractors
from nest_nerfstudio.analysis.prior_map import PriorMapConfig, analyze_prior, corrupt
from nest_nerfstudio.models.runs import load_run
from nest_nerfstudio.types import Views
from tests.small_inversion import train_prior


def some_views() -> Views:
    generator = torch.Generator().manual_seed(0)
    images, alphas = (torch.rand(2, 10, 20, c, generator=generator) for c in (3, 1))
    return Views(
        torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1), 20, 10, images=images, alphas=alphas
    )


def test_corruptions_leave_alpha_and_the_clean_images() -> None:
    clean = some_views()
    before = clean.images.clone()
    noisy = corrupt(clean, PriorMapConfig(strength=0.1), torch.Generator().manual_seed(1))
    covered = corrupt(clean, PriorMapConfig(corruption="occlusion"), torch.Generator())
    assert torch.equal(clean.images, before)
    assert noisy.alphas is clean.alphas
    assert 0.03 < float((noisy.images - clean.images).std()) < 0.1  # clamped at 0 and 1
    changed = (covered.images != clean.images).any(-1)
    assert changed.sum() == 2 * 6 * 6
    assert (covered.images[changed] == 0.5).all()


@pytest.mark.slow
def test_iterates_a_trained_prior(tmp_path: Path) -> None:
    run = train_prior(tmp_path, steps=30)
    config = PriorMapConfig(views=2, iterations=3)
    report = analyze_prior(run, config, seed=0)
    assert [(row["from"], row["iteration"]) for row in report.rows] == [
        (start, i) for start in ("clean", "noise") for i in range(4)
    ]
    assert report.plots.keys() == {"prior_map"}
    model = load_run(run).model
    views = model.contexts[model.viewer_controls.scene, 2]
    with torch.no_grad():
        rgb = model.render(model.encoder(views), views).rgb
    error = (rgb.clamp(0, 1) - views.over(torch.ones(3))).square().mean()
    assert report.rows[0]["PSNR"] == pytest.approx(float(-10 * error.log10()), abs=0.1)
    with pytest.raises(ValueError, match="there is no scene 'nowhere'; the first are"):
        analyze_prior(run, PriorMapConfig(scene="nowhere"), seed=0)


def test_refuses_settings_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        Attractors(load=Path("a"), load_config=Path("b")).run()
    with pytest.raises(ValueError, match="--iterations must be 2 or more"):
        analyze_prior(Path("RUN"), PriorMapConfig(iterations=1), seed=0)
    with pytest.raises(FileNotFoundError, match="no run at RUN"):
        analyze_prior(Path("RUN"), PriorMapConfig(), seed=0)
