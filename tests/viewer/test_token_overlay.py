"""Display of the tokens as a point cloud."""

from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import torch

from nest_nerfstudio.viewer.token_overlay import TokenOverlay, token_colors


def test_tokens_are_drawn_in_the_units_of_the_viewer() -> None:
    scene = Mock()
    overlay = TokenOverlay(SimpleNamespace(scene=scene), scale=10.0)
    positions = torch.rand(5, 3, requires_grad=True)
    overlay.draw(positions)
    np.testing.assert_allclose(
        scene.add_point_cloud.call_args.args[1], 10 * positions.detach().numpy(), rtol=1e-6
    )


def test_only_a_change_is_sent_and_sizes_stay() -> None:
    scene = Mock()
    overlay = TokenOverlay(SimpleNamespace(scene=scene), scale=10.0)
    positions = torch.rand(5, 3)
    overlay.draw(positions)
    overlay.draw(positions.clone())
    assert scene.add_point_cloud.call_count == 1
    overlay.draw(2 * positions)
    first, second = (call.kwargs["point_size"] for call in scene.add_point_cloud.call_args_list)
    assert first == second > 0


def test_hidden_tokens_are_gone_and_come_back() -> None:
    scene = Mock()
    overlay = TokenOverlay(SimpleNamespace(scene=scene), scale=10.0)
    overlay.hide()
    assert not overlay.visible
    positions = torch.rand(5, 3)
    overlay.draw(positions)
    overlay.hide()
    scene.add_point_cloud.return_value.remove.assert_called_once()
    overlay.draw(positions)
    assert overlay.visible
    assert scene.add_point_cloud.call_count == 2


def test_a_token_keeps_its_colour_and_neighbours_differ() -> None:
    few, many = token_colors(16), token_colors(64)
    np.testing.assert_array_equal(few, many[:16])
    assert np.abs(np.diff(many.astype(int), axis=0)).sum(1).min() > 100
