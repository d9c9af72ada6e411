"""A plain autoencoder of posed images: what structure of a latent is compared with.

Its code is a vector without parts. It is given what a prior is given, images with their cameras, any number
of them in any order, so that cameras need no room in the code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from rich.progress import track
from torch import Tensor, nn

from nest_nerfstudio.types import Views

SIZE = 32
"""Width and height of the images, pixels."""


class ImageAutoencoder(nn.Module):
    """Images and cameras → mean over views → code; code and a camera → image.

    Args:
        code_dim: numbers of a code.
        width: channels of the convolutions.
    """

    def __init__(self, code_dim: int, width: int = 48) -> None:
        super().__init__()
        self.to_features = nn.Sequential(
            *(nn.Conv2d(4, width, 4, 2, 1), nn.SiLU()),
            *(nn.Conv2d(width, width, 4, 2, 1), nn.SiLU()),
            *(nn.Conv2d(width, width, 4, 2, 1), nn.SiLU(), nn.Flatten()),
        )
        features = width * (SIZE // 8) ** 2
        self.to_code = nn.Sequential(nn.Linear(features + 12, 256), nn.SiLU(), nn.Linear(256, code_dim))
        self.from_code = nn.Sequential(
            nn.Linear(code_dim + 12, 256), nn.SiLU(), nn.Linear(256, features), nn.SiLU()
        )
        self.to_image = nn.Sequential(
            nn.Unflatten(1, (width, SIZE // 8, SIZE // 8)),
            *(nn.ConvTranspose2d(width, width, 4, 2, 1), nn.SiLU()),
            *(nn.ConvTranspose2d(width, width, 4, 2, 1), nn.SiLU()),
            nn.ConvTranspose2d(width, 4, 4, 2, 1),
        )

    def encode(self, images: Float[Tensor, "v 4 s s"], cameras: Float[Tensor, "v 12"]) -> Float[Tensor, " d"]:
        """Code of a state from its views, in any order."""
        return self.to_code(torch.cat([self.to_features(images), cameras], 1)).mean(0)

    def decode(self, code: Float[Tensor, " d"], cameras: Float[Tensor, "v 12"]) -> Float[Tensor, "v 4 s s"]:
        """Images of a code, RGB times alpha, and alpha."""
        return self.to_image(self.from_code(torch.cat([code.expand(len(cameras), -1), cameras], 1)))


def train_autoencoder(
    views: Sequence[Views], code_dim: int, steps: int, batch: int = 8, seed: int = 0
) -> tuple[Float[np.ndarray, "n d"], float]:
    """Train a plain autoencoder on states, each seen by some views, and encode them.

    Args:
        views: of each state.
        code_dim: numbers of a code.
        steps: of Adam.
        batch: states of a step.
        seed: of weights and batches.

    Returns:
        Codes of the states, and the PSNR of their images in dB.
    """
    torch.manual_seed(seed)
    inputs = [_prepared(seen) for seen in views]
    model = ImageAutoencoder(code_dim)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in track(range(steps), "Training a plain autoencoder", console=CONSOLE, transient=True):
        chosen = [inputs[i] for i in torch.randint(len(inputs), (batch,)).tolist()]
        errors = [F.mse_loss(model.decode(model.encode(*state), state[1]), state[0]) for state in chosen]
        optimizer.zero_grad()
        torch.stack(errors).mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        codes = [model.encode(*state) for state in inputs]
        error = [
            F.mse_loss(model.decode(code, state[1]), state[0])
            for code, state in zip(codes, inputs, strict=True)
        ]
    return torch.stack(codes).double().numpy(), float(-10 * torch.stack(error).mean().log10())


def _prepared(views: Views) -> tuple[Tensor, Tensor]:
    """RGB times alpha and alpha at 32×32, and cameras as rows: rotation, and position in units of 4."""
    assert views.images is not None
    alphas = torch.ones_like(views.images[..., :1]) if views.alphas is None else views.alphas
    rgba = torch.cat([views.images * alphas, alphas], -1).permute(0, 3, 1, 2)
    viewmats = views.viewmats.float()
    cameras = torch.cat([viewmats[:, :3, :3].flatten(1), viewmats[:, :3, 3] / 4], 1)
    return F.interpolate(rgba, (SIZE, SIZE), mode="area"), cameras
