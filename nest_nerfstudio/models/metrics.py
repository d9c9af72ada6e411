"""PSNR, SSIM and, where its weights can be had, LPIPS."""

from __future__ import annotations

import socket
from typing import Any, cast

from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor
from torchmetrics.functional import peak_signal_noise_ratio, structural_similarity_index_measure
from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity


class ImageMetrics:
    """Metrics of a rendered image against its target.

    LPIPS needs AlexNet weights. They are looked for (and downloaded) at the first score rather than when a
    model is built, so that neither training nor testing needs a network; without them LPIPS is left out.
    """

    def __init__(self) -> None:
        self._lpips: Any = None
        self._looked_for_lpips = False

    def __call__(self, rgb: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"]) -> dict[str, float]:
        """PSNR in dB, SSIM, and LPIPS if it is there, of values in [0, 1]."""
        shown, seen = (x.detach().permute(2, 0, 1)[None].clamp(0, 1) for x in (rgb, target))
        scores = {
            "psnr": float(peak_signal_noise_ratio(shown, seen, data_range=1.0)),
            "ssim": float(cast(Tensor, structural_similarity_index_measure(shown, seen, data_range=1.0))),
        }
        lpips = self._find_lpips()
        return scores if lpips is None else {**scores, "lpips": float(lpips.to(rgb.device)(shown, seen))}

    def _find_lpips(self) -> Any:
        if not self._looked_for_lpips:
            self._looked_for_lpips = True
            patience = socket.getdefaulttimeout()
            socket.setdefaulttimeout(10.0)
            try:
                self._lpips = LearnedPerceptualImagePatchSimilarity(normalize=True)
            except Exception as error:  # whatever a download can raise: none of it may stop a score
                CONSOLE.print(f"[yellow]LPIPS is left out: its weights could not be loaded ({error}).")
            finally:
                socket.setdefaulttimeout(patience)
        return self._lpips
