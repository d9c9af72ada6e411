"""Frames of tokens are rotations, turn with the vectors that they are made of, and always exist."""

import torch

from nest_nerfstudio.encoders.frames import frames_from_vectors


def test_frames_are_rotations_also_where_vectors_are_collinear() -> None:
    first, second = torch.randn(6, 3), torch.randn(6, 3)
    second[0], first[1], second[2] = 2 * first[0], 0, 0
    others = torch.randn(6, 2, 3)
    others[:, 0] = first
    frames = frames_from_vectors(first, second, others)
    torch.testing.assert_close(frames @ frames.mT, torch.eye(3).expand(6, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(frames), torch.ones(6))
    torch.testing.assert_close(frames[3, :, 0], torch.nn.functional.normalize(first[3], dim=0))
    rotation = torch.linalg.qr(torch.randn(3, 3)).Q
    rotation = rotation * torch.linalg.det(rotation)
    turned = frames_from_vectors(first @ rotation.T, second @ rotation.T, others @ rotation.T)
    torch.testing.assert_close(turned, rotation @ frames, atol=1e-4, rtol=0)


def test_world_axes_serve_where_there_is_nothing_else() -> None:
    frames = frames_from_vectors(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 2, 3))
    torch.testing.assert_close(frames, torch.eye(3)[None])
