from dataclasses import replace

import pytest
import torch

from nest_nerfstudio.dynamics.clip_codes import ClipCodes, code_distance
from nest_nerfstudio.types import MotionCode
from tests.small_motions import CODE, body, motion_map


def start() -> MotionCode:
    begun = motion_map()[0].begin(body()).motion
    return replace(begun, scene_code=torch.ones(CODE).double(), period=begun.period * 0.8)


def learned(clip: int, num_clips: int = 3) -> ClipCodes:
    """A table of which one clip was learned."""
    made = ClipCodes(num_clips, CODE).double()
    torch.nn.init.normal_(made.rows.data[clip], generator=torch.Generator().manual_seed(0))
    return made


@pytest.mark.parametrize("clip", [1, ~1])
def test_clips_that_were_learned_are_known_and_mirror_images_are_others(clip: int) -> None:
    made = learned(clip)
    assert made.learned == [clip]
    torch.nn.init.ones_(made.rows)
    assert made.learned == [0, 1, 2, ~2, ~1, ~0]


def test_all_clips_begin_with_the_start_and_change_from_it() -> None:
    made, begun = learned(2), start()
    same, changed = made(begun, 0), made(begun, 2)
    assert code_distance(same, begun) == 0
    assert torch.equal(same.period, begun.period)
    torch.testing.assert_close(code_distance(changed, begun), made.prior(2))
    assert 0.4 < changed.period / begun.period < 2.5


def test_a_distance_is_zero_for_equal_codes_alone() -> None:
    begun = start()
    for name in ("scene_code", "period", "phase"):
        assert code_distance(replace(begun, **{name: getattr(begun, name) + 0.1}), begun) > 0


def test_who_does_not_know_the_clips_takes_the_codes_that_were_stored() -> None:
    stored, loaded = learned(1), ClipCodes(0, CODE).double().requires_grad_(False)
    assert loaded.learned == []
    loaded.load_state_dict(stored.state_dict())
    assert torch.equal(loaded.rows, stored.rows)
    assert loaded.learned == [1]
    assert not loaded.rows.requires_grad
    with pytest.raises(RuntimeError, match="size mismatch"):
        ClipCodes(2, CODE).load_state_dict(stored.state_dict())


def test_a_run_that_stored_none_leaves_all_clips_to_be_learned() -> None:
    loaded = ClipCodes(3, CODE)
    loaded.load_state_dict({})
    assert loaded.learned == []
