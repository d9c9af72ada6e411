"""PSNR, SSIM and, where its weights can be had, LPIPS."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from nest_nerfstudio.host import load_lpips
from nest_nerfstudio.losses.photometric import SSIM_WINDOW


class ImageMetrics:
    """Metrics of a rendered image against its target.

    LPIPS needs AlexNet weights. They are looked for (and downloaded) at the first score rather than when a
    model is built, so that neither training nor testing needs a network; without them LPIPS is left out.
    """

    def __init__(self) -> None:
        self._lpips: Any = None
        self._looked_for_lpips = False

    def __call__(
        self,
        rgb: Float[Tensor, "h w 3"],
        target: Float[Tensor, "h w 3"],
        mask: Float[Tensor, "h w 1"] | None = None,
    ) -> dict[str, float]:
        """PSNR in dB, SSIM, and LPIPS if it is there, of values in [0, 1].

        Under a mask PSNR is that of the pixels to use. SSIM is the mean over its windows (of 11 pixels) that
        hold only those; if there is none, over the windows around pixels to use, with what is masked out
        black in both images. LPIPS is that of images black where masked out, over the share of the others.

        Args:
            rgb: rendered image.
            target: ground truth.
            mask: 1 for the pixels to use and 0 for the others; None uses all.

        Returns:
            `psnr`, `ssim`, `lpips`; nothing where no pixel is to be used.
        """
        # slow to import, and not needed to draw
        from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

        if mask is not None and not (mask > 0.5).any():
            return {}
        shown, seen = (x.detach().permute(2, 0, 1)[None].clamp(0, 1) for x in (rgb, target))
        used = torch.ones_like(shown)
        if mask is not None:
            used = used * (mask > 0.5).permute(2, 0, 1)
        shown, seen, share = shown * used, seen * used, used.mean()
        _, ssim_map = structural_similarity_index_measure(shown, seen, data_range=1.0, return_full_image=True)
        whole = -F.max_pool2d(-used, SSIM_WINDOW, stride=1, padding=SSIM_WINDOW // 2)
        scores = {
            "psnr": float(peak_signal_noise_ratio(shown[used > 0], seen[used > 0], data_range=1.0)),
            "ssim": float(ssim_map[(whole if whole.any() else used) > 0].mean()),
        }
        if (lpips := self._find_lpips()) is not None:
            scores["lpips"] = float(lpips.to(rgb.device)(shown, seen) / share)
        return scores

    def _find_lpips(self) -> Any:
        if not self._looked_for_lpips:
            self._looked_for_lpips = True
            try:
                self._lpips = load_lpips()
            except Exception as error:  # whatever a download can raise: none of it may stop a score
                CONSOLE.print(f"[yellow]LPIPS is left out: its weights could not be loaded ({error}).")
        return self._lpips
