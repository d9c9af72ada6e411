"""What images and points show at tokens, as invariant scalars and equivariant vectors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.encoders.hull_depth import depths_in_hull
from nest_nerfstudio.encoders.layers import mlp
from nest_nerfstudio.encoders.proposals import Proposals
from nest_nerfstudio.encoders.volume import sample_volume
from nest_nerfstudio.geometry.color import srgb_to_linear
from nest_nerfstudio.geometry.multiview import camera_centres, project, sample_maps
from nest_nerfstudio.geometry.points import smooth_neighbors
from nest_nerfstudio.types import Points, Views

CORNER_FEATURES = 4
"""Features of a corner besides its colour: its coverage, the least coverage over the views, its depth in the
hull, and the variance of its colour over the views."""


@dataclass(frozen=True)
class ViewFeatures:
    """What the views show at K tokens.

    Attributes:
        scalars: pooled over the views, invariant.
        vectors: combinations of camera axes and directions to cameras, world frame.
        axes: x and y axes of the cameras, averaged with the weights of the first head, world frame.
        per_view: features of each view, before pooling; invariant.
    """

    scalars: Float[Tensor, "k c"]
    vectors: Float[Tensor, "k n 3"]
    axes: Float[Tensor, "k 2 3"]
    per_view: Float[Tensor, "v k s"]


class ViewSampler(nn.Module):
    """Samples images at tokens and at their corners, and pools over views by learned attention.

    Args:
        features: channels of the image feature maps.
        volume: channels of the feature volume.
        width: channels of a view's features at a token.
        num_vectors: vectors of a token.
        radius: of the scene, world units.
    """

    def __init__(self, features: int, volume: int, width: int, num_vectors: int, radius: float) -> None:
        super().__init__()
        self.num_vectors, self.radius = num_vectors, radius
        self.num_scalars = (_HEADS + 1) * width + volume
        self.view_mlp = mlp(features + _VIEW_CUES, width, width)
        self.attention = mlp(3 * width, width, _HEADS)
        self.corner_context = nn.Linear(2 * width, _CORNER_HIDDEN)
        self.corner_attention = mlp(_CORNER_HIDDEN + _CORNER_CUES, _CORNER_HIDDEN, 1)
        self.vector_coefficients = nn.Linear(width, 4 * num_vectors)

    def pool_views(
        self,
        views: Views,
        proposals: Proposals,
        positions: Float[Tensor, "k 3"],
        centre: Float[Tensor, " 3"],
    ) -> ViewFeatures:
        """Features of the views at tokens, pooled by the weights of several attention heads.

        Args:
            views: V cameras, world frame.
            proposals: features of their images.
            positions: of the tokens, world frame.
            centre: of the scene, world frame.
        """
        rotations = views.viewmats[:, :3, :3]
        per_view = self._view_features(views, proposals, positions, centre)
        mean = per_view.mean(0)
        variance = (per_view - mean).square().mean(0)
        compared = [per_view, mean.expand_as(per_view), variance.expand_as(per_view)]
        heads = self.attention(torch.cat(compared, -1)).softmax(0)
        pooled = torch.einsum("vkh,vks->khs", heads, per_view).flatten(1)
        context = sample_volume(proposals.volume, (positions - centre) @ rotations[0].mT, self.radius)
        to_cameras = F.normalize(camera_centres(views.viewmats)[:, None] - positions, dim=-1)
        directions = torch.cat(
            [rotations[:, None].expand(-1, len(positions), -1, -1), to_cameras[:, :, None]], 2
        ).to(per_view)
        coefficients = self.vector_coefficients(per_view).unflatten(-1, (self.num_vectors, 4))
        return ViewFeatures(
            scalars=torch.cat([pooled, variance, context], 1),
            vectors=torch.einsum("vkca,vkai->kci", coefficients * heads[..., :1, None], directions),
            axes=torch.einsum("vk,vkai->kai", heads[..., 0], directions[:, :, 1:3]),
            per_view=per_view,
        )

    def _view_features(
        self, views: Views, proposals: Proposals, positions: Tensor, centre: Tensor
    ) -> Float[Tensor, "v k s"]:
        """Invariant features of each view at each token: what its image shows there, and where it sees it."""
        grid, depths = project(views, positions)
        in_hull = depths_in_hull(proposals.front_depths, proposals.back_depths, grid, depths) / self.radius
        in_camera = ((positions - centre) @ views.viewmats[:, :3, :3].mT) / self.radius
        eccentricity = grid.abs().amax(-1, keepdim=True).clamp_max(2)
        shown = [sample_maps(proposals.maps, grid), sample_maps(proposals.rgba, grid)]
        cues = [cue.to(proposals.rgba) for cue in (in_camera, in_hull, eccentricity)]
        return self.view_mlp(torch.cat([*shown, *cues], -1))

    def sample_corners(
        self,
        views: Views,
        proposals: Proposals,
        corners: Float[Tensor, "k c 3"],
        per_view: Float[Tensor, "v k s"],
        scalars: Float[Tensor, "k s"],
    ) -> tuple[Float[Tensor, "k c 3"], Float[Tensor, "k c f"]]:
        """Colours of the images at the corners of the tokens' albedo cubes.

        Views are weighted by attention, from what they show at the corner and what is known of its token.

        Args:
            views: V cameras, world frame.
            proposals: features of their images.
            corners: world frame.
            per_view: features of each view at the tokens.
            scalars: features of the tokens.

        Returns:
            Colours, linear RGB.
            Features of the corners, see `CORNER_FEATURES`.
        """
        shape = corners.shape[:2]
        grid, depths = project(views, corners.flatten(0, 1))
        rgba = sample_maps(proposals.rgba, grid).unflatten(1, shape)  # [v, k, c, 4]
        in_hull = depths_in_hull(proposals.front_depths, proposals.back_depths, grid, depths)
        in_hull = (in_hull.unflatten(1, shape) / (0.1 * self.radius)).clamp(-3, 3).to(rgba)
        context = self.corner_context(torch.cat([per_view, scalars.expand_as(per_view)], -1))
        context = context[:, :, None].expand(-1, -1, shape[1], -1)
        weights = self.corner_attention(torch.cat([context, rgba, in_hull], -1)).softmax(0)
        alphas = rgba[..., 3:]
        srgb = (rgba[..., :3] / alphas.clamp_min(1e-2)).clamp(0, 1)
        shares = weights * alphas.clamp_min(1e-4)
        shares = shares / shares.sum(0)
        colors = (shares * srgb_to_linear(srgb)).sum(0)
        variance = (shares * (srgb - (shares * srgb).sum(0)).square()).sum(0).mean(-1, keepdim=True)
        coverage = [(weights * alphas).sum(0), alphas.amin(0)]
        return colors, torch.cat([*coverage, in_hull.amin((0, -1))[..., None], 10 * variance], -1)


class PointSampler(nn.Module):
    """Samples a coloured point cloud at tokens and at their corners, from the nearest points.

    Args:
        width: channels of the features of the points at a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.point_mlp = mlp(4, width, width)

    def pool_points(
        self, points: Points, positions: Float[Tensor, "k 3"], spacing: Float[Tensor, " k"]
    ) -> tuple[Float[Tensor, "k w"], Float[Tensor, "k 3"]]:
        """Features of the nearest points, and the direction to them.

        Args:
            points: world frame.
            positions: of the tokens, world frame.
            spacing: distance between tokens, world units; the unit of length of the results.

        Returns:
            Weighted mean of invariant features of the points.
            Weighted mean of their offsets from the token, world frame.
        """
        nearest, weights = smooth_neighbors(positions, points.positions, _NEAREST_POINTS)
        offsets = ((points.positions[nearest] - positions[:, None]) / spacing[:, None, None]).to(points.rgb)
        weights = weights.to(offsets)
        features = self.point_mlp(torch.cat([points.rgb[nearest], offsets.norm(dim=-1, keepdim=True)], -1))
        return (weights[..., None] * features).sum(1), (weights[..., None] * offsets).sum(1)

    @staticmethod
    def sample_corners(
        points: Points,
        corners: Float[Tensor, "k c 3"],
        positions: Float[Tensor, "k 3"],
        spacing: Float[Tensor, " k"],
    ) -> Float[Tensor, "k c 3"]:
        """Colours (linear RGB) at corners: of the points nearest to the token, weighted by nearness to the
        corner.

        Args:
            points: world frame.
            corners: world frame.
            positions: of the tokens, world frame.
            spacing: distance between tokens, world units.
        """
        nearest, weights = smooth_neighbors(positions, points.positions, _NEAREST_POINTS)
        offsets = (corners[:, :, None] - points.positions[nearest][:, None]) / spacing[:, None, None, None]
        offsets, weights = offsets.to(points.rgb), weights.to(points.rgb)
        shares = weights[:, None] * torch.exp(-2 * offsets.square().sum(-1)) + 1e-4 * weights[:, None]
        return (shares / shares.sum(-1, keepdim=True)) @ srgb_to_linear(points.rgb)[nearest]


_HEADS = 4
"""Attention heads over the views."""
_VIEW_CUES = 4 + 3 + 2 + 1
"""RGBA, position in the camera's frame, distances to the hull's front and back, distance from image
centre."""
_CORNER_HIDDEN = 24
"""Width of the network that weights the views of a corner."""
_CORNER_CUES = 4 + 2
"""RGBA at the corner, distances to the hull's front and back."""
_NEAREST_POINTS = 8
"""Points that a token reads."""
