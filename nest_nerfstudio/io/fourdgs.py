"""`.4dgs` files of moving Gaussians, by the library `fourdgs` (extra `fourdgs`)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nest_nerfstudio.files import written_whole
from nest_nerfstudio.geometry.sh import SH_C0, rgb_to_sh
from nest_nerfstudio.types import Gaussians


def write_fourdgs(path: Path, frames: Iterable[tuple[float, Gaussians]]) -> None:
    """Write a scene at some moments as a `.4dgs` file of its temporal model "gaussian-birth".

    Each frame's Gaussians live until the next frame, and move straight towards it; the last frame only ends
    the last stretch. So the file holds the Gaussians once for each frame, quantised as the format does: mean
    colours to [0, 1], harmonics above degree 0 to 255 steps of [−4, 4]. The file appears when it is complete.

    Args:
        path: of the file; its folder exists.
        frames: seconds, and the same Gaussians at that moment, finite; in order, two or more.

    Raises:
        ValueError: fewer than two frames, or the library is missing.
    """
    fourdgs = _fourdgs()
    all_frames = list(frames)
    if len(all_frames) < 2:
        raise ValueError("a .4dgs file needs two times or more; --num-times says how many")
    start = all_frames[0][0]
    parts = [_stretch(start, *pair) for pair in pairwise(all_frames)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    degree = all_frames[0][1].sh_degree
    if not degree:
        del columns["sh"]
    gaussians = fourdgs.GaussianSet(**columns, sh_degree=degree)
    metadata = {"coordinate_system": "z-up-right-handed", "color_space": "srgb-rec709-display"}
    options = fourdgs.WriteOptions(profile="fine", metadata=metadata)
    with written_whole(path) as part:
        fourdgs.write(str(part), gaussians, all_frames[-1][0] - start, options=options)


def read_fourdgs(path: Path, seconds: float) -> Gaussians:
    """The Gaussians of a `.4dgs` file at a moment after its start, in an order of its own.

    Raises:
        ValueError: not such a file, or the library is missing.
    """
    fourdgs = _fourdgs()
    try:
        scene = fourdgs.read(str(path))
    except (OSError, fourdgs.FourdgsError) as error:
        raise ValueError(f"{path} is no .4dgs file ({error})") from error
    stored = scene.gaussians
    state = stored.state_at(seconds)
    rows = state["indices"]
    sh = rgb_to_sh(torch.from_numpy(stored.colors[rows, :3]))[:, None]
    if stored.sh is not None:
        low, high = _sh_range()
        higher = low + stored.sh[rows].astype(np.float32) * (high - low) / 255
        sh = torch.cat([sh, torch.from_numpy(higher).unflatten(1, (3, -1)).mT], 1)
    return Gaussians(
        means=torch.from_numpy(state["centers"]).float(),
        quats=torch.from_numpy(state["orientations"]).float()[:, [3, 0, 1, 2]],
        scales=torch.from_numpy(stored.scales[rows]),
        opacities=torch.from_numpy(state["opacity"]).float(),
        sh=sh.float(),
    )


def _stretch(
    start: float, now: tuple[float, Gaussians], then: tuple[float, Gaussians]
) -> dict[str, np.ndarray]:
    """The Gaussians from one frame to the next."""
    begin, end = now[0] - start, then[0] - start
    means, later, quats, scales, opacities, sh = (
        x.detach().cpu().numpy().astype(np.float32)
        for x in (now[1].means, then[1].means, now[1].quats, now[1].scales, now[1].opacities, now[1].sh)
    )
    count = len(means)
    low, high = _sh_range()
    rest = sh[:, 1:].transpose(0, 2, 1).reshape(count, -1)  # channel by channel, as in a PLY file
    rgb = (sh[:, 0] * SH_C0 + 0.5).clip(0, 1)
    return {
        "positions": means,
        "scales": scales,
        "rotations": quats[:, [1, 2, 3, 0]],
        "colors": np.concatenate([rgb, opacities[:, None]], 1),
        "motions": (later - means) / (end - begin),
        "mu_t": np.full(count, begin, np.float32),
        "sigma_t": np.full(count, np.inf, np.float32),
        "win_lo": np.full(count, begin),
        "win_hi": np.full(count, end),
        "sh": np.rint((rest - low) / (high - low) * 255).clip(0, 255).astype(np.uint8),
    }


def _sh_range() -> tuple[float, float]:
    from fourdgs.quantization import SH_QUANT_HI, SH_QUANT_LO

    return SH_QUANT_LO, SH_QUANT_HI


def _fourdgs() -> Any:
    try:
        import fourdgs
    except ImportError as error:
        raise ValueError(".4dgs files need fourdgs: pip install 'nest-nerfstudio[fourdgs]'") from error
    return fourdgs
