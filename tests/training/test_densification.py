"""Which Gaussians are emptied, how large they get, when, and that a resumed training goes on alike."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from nest_nerfstudio.fields.bound_gaussians import PARAMETERS, BoundGaussians
from nest_nerfstudio.training.densification import Densification, DensificationConfig
from nest_nerfstudio.types import Views
from tests.small_capture import orbit

COUNT, CAMERAS = 40, 24
EMPTY = 0.005
"""Opacity that gsplat's strategies take for dead."""


def make_field() -> BoundGaussians:
    field = BoundGaussians(COUNT, 4, sh_degree=0)
    field.initialize(torch.rand(COUNT, 3), torch.rand(COUNT, 3), opacity=0.5)
    return field


def make_views(count: int = CAMERAS, images_each: int = 1) -> list[Views]:
    """Views from different poses, or several at different times from each."""
    return [
        Views(torch.linalg.inv(orbit(i / count))[None], torch.eye(3)[None], 8, 8, torch.tensor([j / 10]))
        for i in range(count)
        for j in range(images_each)
    ]


def make(
    field: BoundGaussians,
    cameras: list[Views] | None = None,
    has_alpha: bool = True,
    strategy: Literal["mcmc", "default"] = "mcmc",
    **settings,
) -> Densification:
    densification = Densification(DensificationConfig(**settings), strategy, max_gs_num=2 * COUNT)
    densification.start(field, make_views() if cameras is None else cameras, has_alpha)
    optimizers = {name: torch.optim.Adam([field.params[name]], lr=1e-3) for name in PARAMETERS}
    densification.attach(optimizers, torch.device("cpu"))
    return densification


def seen_by(densification: Densification, counts: Tensor, share: float = 1.0) -> Callable[[Views], Tensor]:
    """Gaussian n is seen by the first counts[n] cameras."""
    poses = [images[0].viewmats for images in densification.cameras]

    def visible(views: Views) -> Tensor:
        number = next(i for i, pose in enumerate(poses) if torch.equal(pose, views.viewmats))
        return share * (number < counts).float()[None]

    return visible


def nothing_asked(views: Views) -> Tensor:
    raise AssertionError("visibility is not to be computed")


def test_gaussians_that_hardly_a_camera_sees_are_emptied() -> None:
    field = make_field()
    densification, counts = make(field), torch.arange(COUNT) % 8
    before = field.params["opacities"].detach().clone()
    visible = seen_by(densification, counts)
    assert torch.equal(densification.count_seeing(field, visible), counts)
    densification.empty_unseen(field, 100, visible)
    emptied = counts < densification.config.min_views
    assert field.params["opacities"][emptied].sigmoid().max() < EMPTY
    assert torch.equal(field.params["opacities"][~emptied], before[~emptied])


def test_a_camera_sees_what_enough_light_comes_from() -> None:
    field = make_field()
    densification, counts = make(field), torch.full((COUNT,), 5)
    least = densification.config.min_visibility
    assert densification.count_seeing(field, seen_by(densification, counts, least)).min() == 5
    assert densification.count_seeing(field, seen_by(densification, counts, 0.99 * least)).max() == 0


def test_images_from_one_pose_are_one_camera() -> None:
    """It sees what any of its images sees."""
    field = make_field()
    densification = make(field, make_views(12, images_each=3))
    assert len(densification.cameras) == 12

    def in_the_last_image(views: Views) -> Tensor:
        assert views.times is not None
        return (views.times[:, None] > 0.15).float().expand(1, COUNT)

    assert (densification.count_seeing(field, in_the_last_image) == 12).all()


@pytest.mark.parametrize(("cameras", "fewest"), [(1, 0), (3, 0), (4, 1), (8, 2), (12, 3), (24, 3)])
def test_few_cameras_have_little_say(cameras: int, fewest: int) -> None:
    """A quarter of all cameras at most has to see a Gaussian."""
    field = make_field()
    densification, counts = make(field, make_views(cameras)), torch.arange(COUNT) % 5
    densification.empty_unseen(field, 100, seen_by(densification, counts))
    emptied = field.params["opacities"].sigmoid() < EMPTY
    assert torch.equal(emptied, counts < fewest)


def test_none_are_emptied_where_that_is_switched_off() -> None:
    field = make_field()
    make(field, min_views=0).empty_unseen(field, 100, nothing_asked)


def test_the_next_look_is_four_steps_for_each_image_away() -> None:
    field = make_field()
    densification = make(field, make_views(12, images_each=2))
    none = seen_by(densification, torch.zeros(COUNT))
    densification.empty_unseen(field, 200, none)
    field.params["opacities"].data.fill_(2.0)
    densification.empty_unseen(field, 295, nothing_asked)
    densification.empty_unseen(field, 296, none)
    assert field.params["opacities"].sigmoid().max() < EMPTY


@pytest.mark.parametrize(
    ("step", "progress", "is_full_size"),
    [(199, 0.7, True), (200, 0.1, False), (200, 0.75, True)],
    ids=["no refining at this step", "small images", "no more refining"],
)
def test_it_looks_only_where_the_strategy_refines_full_size_images(
    step: int, progress: float, is_full_size: bool
) -> None:
    field = make_field()
    make(field).after_step(field, step, progress, is_full_size, nothing_asked)


def test_what_is_emptied_is_used_again_at_once() -> None:
    field = make_field()
    densification = make(field)
    counts = torch.where(torch.arange(COUNT) < 10, 0, 24)
    far = field.params["means"].data[:10] = torch.full((10, 3), 9.0)
    densification.after_step(field, 600, 0.7, True, seen_by(densification, counts))
    assert len(field) >= COUNT
    assert torch.cdist(field.params["means"].data, far).min() > 1.0
    assert field.params["opacities"].sigmoid().min() > EMPTY


def test_gaussians_stay_as_small_as_the_spacing_at_the_start() -> None:
    field = make_field()
    spacing = field.params["scales"].detach().median().item()
    densification = make(field, max_scale=2.0)
    field.params["scales"].data[3] = 5.0
    field.params["scales"].data[4] = spacing - 1
    densification.after_step(field, 199, 0.7, True, nothing_asked)
    assert field.params["scales"].max().item() == pytest.approx(spacing + math.log(2), abs=1e-5)
    assert field.params["scales"][4].max().item() == pytest.approx(spacing - 1)


@pytest.mark.parametrize(("has_alpha", "max_scale"), [(False, 1.0), (True, 0.0)])
def test_without_alpha_or_a_limit_they_grow(has_alpha: bool, max_scale: float) -> None:
    field = make_field()
    densification = make(field, has_alpha=has_alpha, max_scale=max_scale)
    field.params["scales"].data[3] = 5.0
    densification.after_step(field, 199, 0.7, True, nothing_asked)
    assert field.params["scales"].max() == 5.0


def test_the_state_dict_holds_what_decides_the_next_steps() -> None:
    field = make_field()
    first = make(field, strategy="default")
    info = {
        "means2d": torch.zeros(1, COUNT, 2, requires_grad=True),
        "radii": torch.ones(1, COUNT, dtype=torch.int32),
        "width": 8,
        "height": 8,
        "n_cameras": 1,
        "gaussian_ids": None,
    }
    first.before_backward(field, 1, info)
    info["means2d"].grad = torch.rand(1, COUNT, 2)
    first.after_step(field, 1, 0.2, False, nothing_asked)
    first.empty_unseen(field, 100, seen_by(first, torch.full((COUNT,), 9)))
    stored = first.state_dict()
    for attached_first in (True, False):
        second = Densification(DensificationConfig(), "default", 2 * COUNT)
        optimizers = {name: torch.optim.Adam([field.params[name]], lr=1e-3) for name in PARAMETERS}
        for attach in (attached_first, not attached_first):
            if attach:
                second.attach(optimizers, torch.device("cpu"))
            else:
                second.load_state_dict(stored)
        assert second.next_check == 196
        assert second.max_log_scale == first.max_log_scale < math.inf
        again = second.get_extra_state()
        assert again.keys() == first.get_extra_state().keys() >= {"grad2d", "count"}
        assert all(torch.equal(again[name], value) for name, value in first.get_extra_state().items())
        assert again["grad2d"].any()


def test_cameras_are_looked_from_with_their_masks() -> None:
    field = make_field()
    masks = [torch.full((1, 8, 8, 1), float(i % 2)) for i in range(CAMERAS)]
    views = [replace(view, masks=mask) for view, mask in zip(make_views(), masks, strict=True)]

    def visible(view: Views) -> Tensor:
        assert view.masks is not None
        return view.masks.mean().expand(1, COUNT)

    assert (make(field, views).count_seeing(field, visible) == CAMERAS // 2).all()


def test_gaussians_drawn_where_pixels_are_masked_out_have_no_say_in_what_is_split() -> None:
    field = make_field()
    densification = make(field, strategy="default")
    means2d = torch.full((1, COUNT, 2), 6.0).requires_grad_()
    means2d.data[:, :10] = 2.0
    info = {
        "means2d": means2d,
        "radii": torch.ones(1, COUNT, dtype=torch.int32),
        "width": 8,
        "height": 8,
        "n_cameras": 1,
        "gaussian_ids": None,
    }
    masks = torch.ones(1, 8, 8, 1)
    masks[:, :4, :4] = 0
    densification.before_backward(field, 1, info, masks)
    means2d.grad = torch.ones(1, COUNT, 2)
    densification.after_step(field, 1, 0.2, False, nothing_asked)
    assert densification.get_extra_state()["count"].tolist() == [0.0] * 10 + [1.0] * (COUNT - 10)


def with_gates(strategy: Literal["mcmc", "default"] = "mcmc") -> tuple[BoundGaussians, Densification]:
    """Half of the Gaussians, the red ones, move."""
    field = make_field()
    field.stand_still()
    moving = torch.arange(COUNT) % 2 == 0
    with torch.no_grad():
        field.params["gates"][moving] = 4.0
        field.params["features_dc"][:] = moving[:, None].float()
    densification = Densification(DensificationConfig(), strategy, max_gs_num=2 * COUNT)
    densification.start(field, make_views(), False)
    optimizers = {name: torch.optim.Adam([field.params[name]], lr=1e-3) for name in field.params}
    densification.attach(optimizers, torch.device("cpu"))
    return field, densification


def test_gaussians_that_are_moved_and_added_have_the_gate_of_their_parent() -> None:
    field, densification = with_gates()
    with torch.no_grad():
        field.params["opacities"][10:20] = -9.0  # dead: five of each kind
    torch.manual_seed(0)
    densification.after_step(field, 600, 0.2, False, nothing_asked)
    assert len(field) > COUNT
    gates = field.gates()
    assert gates is not None
    assert torch.equal(gates, field.params["features_dc"][:, 0])
    assert (field.params["opacities"] > -9).all()


@pytest.mark.parametrize("strategy", ["mcmc", "default"])
def test_gaussians_join_with_new_optimizer_states(strategy: Literal["mcmc", "default"]) -> None:
    field, densification = with_gates(strategy)
    sum(p.sum() for p in field.params.values()).backward()
    for optimizer in densification._optimizers.values():
        optimizer.step()
    before = {name: value.detach().clone() for name, value in field.params.items()}
    densification.add(field, {name: torch.full_like(value[:5], 0.25) for name, value in before.items()})
    assert len(field) == COUNT + 5
    for name, value in field.params.items():
        assert torch.equal(value[:COUNT], before[name])
        assert (value[COUNT:] == 0.25).all()
        (group,) = densification._optimizers[name].param_groups
        assert group["params"][0] is value
        moment = densification._optimizers[name].state[value]["exp_avg"]
        assert moment[:COUNT].any() or not value.numel()
        assert not moment[COUNT:].any()
