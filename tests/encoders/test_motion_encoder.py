from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.encoders.motion_encoder import MotionEncoder, MotionEncoderConfig
from nest_nerfstudio.types import MotionCode, SceneLatent, Views
from tests.equivariance import TOLERANCE, pictures, random_pose, relative
from tests.small_motions import CODE, GEOMETRY, body, motion_map


def frames(dtype: torch.dtype) -> Views:
    return replace(pictures(4, dtype), times=torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=dtype))


def read(latent: SceneLatent, views: Views, dtype: torch.dtype, rest: float = 0.0) -> MotionCode:
    made = motion_map()[0].to(dtype)
    torch.manual_seed(1)
    encoder = MotionEncoder(MotionEncoderConfig(image_size=48, hidden_dim=16), GEOMETRY, CODE, 6).to(dtype)
    torch.nn.init.normal_(encoder.head[-1].weight)
    begun, axes = made.begin(latent), made.axes(latent)
    with torch.no_grad():
        return encoder(begun, axes, *made.coordinates(latent, axes), views, rest)


def numbers(motion: MotionCode) -> torch.Tensor:
    return torch.cat([motion.scene_code, motion.period[None], motion.phase[None]])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_codes_are_invariant_under_rigid_motions_of_the_world(dtype) -> None:
    latent, views, g = body(dtype=dtype), frames(dtype), random_pose(dtype, 2, shift=0.3)
    code = numbers(read(latent, views, dtype))
    assert relative(numbers(read(latent.move(g), views.move(g), dtype)), code) < TOLERANCE[dtype]
    assert relative(numbers(read(latent.move(g), views, dtype)), code) > 1e-3


def test_neither_order_of_frames_nor_of_tokens_matters() -> None:
    latent, views, dtype = body(), frames(torch.float64), torch.float64
    code, order = numbers(read(latent, views, dtype)), torch.tensor([2, 0, 3, 1])
    assert relative(numbers(read(latent, views.select(order), dtype)), code) < 1e-10
    assert relative(numbers(read(latent.permute(torch.arange(20).flip(0)), views, dtype)), code) < 1e-10


def test_only_times_since_rest_count_and_they_are_needed() -> None:
    latent, views = body(), frames(torch.float64)
    assert views.times is not None
    code = numbers(read(latent, views, torch.float64))
    later = replace(views, times=views.times + 0.2)
    assert relative(numbers(read(latent, later, torch.float64, rest=0.2)), code) < 1e-10
    assert relative(numbers(read(latent, later, torch.float64)), code) > 1e-3
    with pytest.raises(ValueError, match="need times"):
        read(latent, replace(views, times=None), torch.float64)
