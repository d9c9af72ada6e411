"""A prior over latents: Gaussians of invariant features of the latents of training scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nest_nerfstudio.geometry.albedo_cube import albedo_logits
from nest_nerfstudio.geometry.points import nearest
from nest_nerfstudio.geometry.quaternion import quat_conjugate, quat_rotate
from nest_nerfstudio.types import SceneLatent

NUM_NEIGHBORS = 8
"""Tokens around a token that its relations are to."""


class Gaussian(nn.Module):
    """A normal distribution of vectors, its covariance shrunk so that few samples suffice."""

    mean: Tensor
    whitening: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("whitening", torch.eye(dim))

    @torch.no_grad()
    def fit(self, samples: Float[Tensor, "n d"]) -> None:
        """Take the mean of samples, and their covariance with oracle approximating shrinkage.

        Source: Y. Chen et al., Shrinkage Algorithms for MMSE Covariance Estimation, 2010, Eq. 23.
        """
        x = samples.double()
        n, d = x.shape
        mean, spread = x.mean(0), x.std(0, correction=0).clamp_min(1e-3)
        x = (x - mean) / spread
        covariance = x.mT @ x / n
        trace, squares = covariance.trace(), covariance.square().sum()
        shrinkage = ((1 - 2 / d) * squares + trace**2) / ((n + 1 - 2 / d) * (squares - trace**2 / d))
        shrinkage = shrinkage.nan_to_num(1.0).clamp(1e-3, 1.0)
        target = torch.eye(d).to(covariance) * (trace / d).clamp_min(1e-2)
        root = torch.linalg.cholesky((1 - shrinkage) * covariance + shrinkage * target)
        self.mean.copy_(mean)
        self.whitening.copy_(torch.linalg.inv(root) / spread)

    def whiten(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Vectors in coordinates in which the distribution is the standard one."""
        return (x - self.mean.to(x)) @ self.whitening.to(x).mT

    def forward(
        self, x: Float[Tensor, "*b d"], mean: Float[Tensor, "*#b d"] | None = None
    ) -> Float[Tensor, ""]:
        """Negative log-likelihood up to a constant, for each dimension: ½ ‖whitened x‖² / d, mean over x.

        Args:
            x: vectors.
            mean: of the distribution, in place of its own.
        """
        difference = x - (self.mean.to(x) if mean is None else mean)
        return 0.5 * (difference @ self.whitening.to(x).mT).square().mean()


class Features(NamedTuple):
    """What of a latent is invariant under the motions of the world; see `LatentPrior`.

    Attributes:
        codes: of each token.
        relations: of each token to its neighbours.
        scene: of all together.
    """

    codes: Float[Tensor, "k d"]
    relations: Float[Tensor, "k r"]
    scene: Float[Tensor, " s"]


class LatentPrior(nn.Module):
    """−log p(Z), up to a constant: three Gaussians, over what is invariant under the motions of the world.

    * of a token's codes: geometry, and the logits of albedo;
    * of a token in its surroundings: its codes less the mean of its neighbours', where they stand in its
      frame in units of their distance, that distance over the token's size, and how their frames turn;
    * of the scene: means of the codes, extents, strength of each band of the light; where gravity is known,
      also height and what of extent and light is vertical.

    Each counts as a mean over its tokens and dimensions, so the value is about 3/2 for a training latent,
    whatever the number of tokens. The Gaussians may be centred on a latent instead, such as an encoded one:
    then they say in which directions scenes differ, and which of its changes are cheap.

    Args:
        code_dim: size of geometry and appearance of a token together.
        knows_gravity: whether the vertical is z in all scenes (the encoder's group is `azimuth`).
    """

    def __init__(self, code_dim: int, knows_gravity: bool) -> None:
        super().__init__()
        self.knows_gravity = knows_gravity
        self.codes = Gaussian(code_dim)
        self.relations = Gaussian(code_dim + 5)
        self.scene = Gaussian(code_dim + (17 if knows_gravity else 12))

    @torch.no_grad()
    def fit(self, latents: Sequence[SceneLatent]) -> None:
        """Fit to the latents of training scenes.

        Raises:
            ValueError: there are fewer than two.
        """
        if len(latents) < 2:
            raise ValueError(f"a prior over latents is fitted to two scenes or more, not to {len(latents)}")
        codes, relations, scenes = zip(*map(self.features, latents), strict=True)
        self.codes.fit(torch.cat(codes))
        self.relations.fit(torch.cat(relations))
        self.scene.fit(torch.stack(scenes))

    def forward(self, latent: SceneLatent, around: Features | None = None) -> Float[Tensor, ""]:
        """−log p(Z), up to a constant.

        Args:
            latent: Z.
            around: features of the latent at which the Gaussians are centred; None: their own means.
        """
        gaussians = (self.codes, self.relations, self.scene)
        means = (None, None, None) if around is None else around
        found = self.features(latent)
        return torch.stack([g(x, mean) for g, x, mean in zip(gaussians, found, means, strict=True)]).sum()

    def features(self, latent: SceneLatent) -> Features:
        """What the Gaussians are of."""
        return Features(token_codes(latent), token_relations(latent), self.summary(latent))

    def summary(self, latent: SceneLatent) -> Float[Tensor, " s"]:
        """Features of the whole scene."""
        centred = latent.translations - latent.translations.mean(0)
        covariance = centred.mT @ centred / len(latent) + 1e-6 * torch.eye(3).to(centred)
        light = latent.light
        parts = [
            token_codes(latent).mean(0),
            torch.linalg.eigvalsh(covariance).log() / 2,
            light[:, 0],
            (light[:, 1:4].square().sum(1) + 1e-6).sqrt(),
            (light[:, 4:].square().sum(1) + 1e-6).sqrt(),
        ]
        if self.knows_gravity:
            parts += [
                latent.translations[:, 2].mean()[None],
                covariance[2, 2].log()[None] / 2,
                light[:, 2],  # of degree 1, along z
            ]
        return torch.cat(parts)

    @torch.no_grad()
    def most_typical(self, latents: Sequence[SceneLatent], count: int = 1) -> list[int]:
        """Which latents to start from: that nearest to the scene's mean, then those farthest from all chosen.

        A mean of sets of tokens is no scene, so a training latent stands for it.

        Args:
            latents: of training scenes.
            count: how many; all, where there are fewer.
        """
        features = torch.stack([self.scene.whiten(self.summary(latent)) for latent in latents])
        chosen = [int(features.norm(dim=1).argmin())]
        while len(chosen) < min(count, len(latents)):
            chosen.append(int(torch.cdist(features, features[chosen]).amin(1).argmax()))
        return chosen


def token_codes(latent: SceneLatent) -> Float[Tensor, "k d"]:
    """Geometry codes and logits of albedo."""
    return torch.cat([latent.geometry, albedo_logits(latent.appearance)], 1)


def token_relations(latent: SceneLatent) -> Float[Tensor, "k r"]:
    """How tokens differ from their neighbours; see `LatentPrior`."""
    positions, codes = latent.translations, token_codes(latent)
    with torch.no_grad():
        neighbors = nearest(positions, positions, NUM_NEIGHBORS + 1)[1][:, 1:]
    offsets = positions[neighbors] - positions[:, None]
    spacing = (offsets.square().sum(-1) + 1e-8).sqrt().mean(1, keepdim=True)
    towards = quat_rotate(quat_conjugate(latent.quats), offsets.mean(1)) / spacing
    aligned = (latent.quats[neighbors] * latent.quats[:, None]).sum(-1).square()
    turned = (1 - aligned).clamp_min(0).mean(1, keepdim=True)  # sin² of half the angle between frames
    return torch.cat(
        [
            codes - codes[neighbors].mean(1),
            towards,
            spacing.log() - latent.geometry[:, :1],  # the first number of the codes is the log of the size
            (turned + 1e-3).log(),
        ],
        1,
    )
