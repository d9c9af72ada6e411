"""Workarounds of nerfstudio 1.1.5 and of the libraries that it pins: all that we have, in this one place.

Each says what is wrong, in which file, and where that was reported. What nerfstudio mends can go from here.
Some things need no code here, as our own files are written so that they do not occur:

- From torch 2.6 on `torch.load` takes weights only, and nerfstudio's checkpoints hold NumPy scalars:
  `ns-eval`, `ns-render`, `ns-viewer`, `ns-export` and resuming fail (nerfstudio #3683, #3702). Our
  checkpoints hold plain types (`pipelines/schedules.py`, `pipelines/trainer.py`).
- `ns-render spiral` asks for ray managers (nerfstudio #3023): `data/datamanager.py` has their form.
- `FullImageDatamanager` pins memory, which needs CUDA: `data/datamanager.py` places images itself.
- The viewer reads every plain property of what it shows: those of ours that cost something are cached.
- nerfstudio's trainer loads data parsers while it is itself being imported: ours are modules of their own.

nerfstudio is imported where it is used, so that this module is light.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nest_nerfstudio.geometry.sh import SH_C0
from nest_nerfstudio.types import Gaussians

# ---------------------------------------------------------------- start-up


def start_quickly() -> None:
    """Let nerfstudio ask who called it without reading the source of every caller.

    It does so 26 times whenever its methods are imported (`configs/external_methods.py`, `inspect.stack()`),
    a quarter to a third of the CPU seconds of a start. It wants the names of functions alone. Not reported.
    """
    from nerfstudio.configs import external_methods

    external_methods.inspect = SimpleNamespace(  # type: ignore[attr-defined]
        stack=lambda: [
            SimpleNamespace(function=frame.f_code.co_name)
            for frame, _ in traceback.walk_stack(sys._getframe(1))
        ]
    )


# ---------------------------------------------------------------- processes

QUIET = {"PYTHONWARNINGS": "ignore::FutureWarning"}
"""Environment of nerfstudio's commands without the warnings about deprecated functions of torch that it uses
(`field_components/activations.py`: `torch.cuda.amp.custom_fwd`)."""


def join_processes(config: Any) -> tuple[int, int]:
    """Meet the other processes that torchrun has started; all of them write to the folder of the first.

    nerfstudio's launcher asserts that there is CUDA (`scripts/train.py`, `_distributed_worker`).

    Args:
        config: of the training, a nerfstudio `TrainerConfig`.

    Returns:
        The rank among the processes of this machine, and the number of all.
    """
    on_cuda = config.machine.device_type == "cuda"
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not dist.is_initialized():
        dist.init_process_group("nccl" if on_cuda else "gloo")
    timestamp = [config.timestamp]
    dist.broadcast_object_list(timestamp)
    config.timestamp = timestamp[0]
    return int(os.environ["LOCAL_RANK"]), dist.get_world_size()


def share_gradients(model: nn.Module, local_rank: int, on_cuda: bool) -> DistributedDataParallel:
    """Wrap a model for several processes, on CUDA or a CPU.

    `VanillaPipeline` always gives `device_ids` (`pipelines/base_pipeline.py`), which DDP refuses on a CPU.
    """
    devices = [local_rank] if on_cuda else None
    return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=True)


# ---------------------------------------------------------------- training

LOCAL_HOST, EVERY_INTERFACE = "127.0.0.1", "0.0.0.0"


def on_this_machine(viewer: Any) -> Any:
    """Settings of the viewer, which then listens on this machine only; None: they already did.

    nerfstudio's default is every interface, and `ns-viewer` replaces whatever a run was trained with
    (`configs/base_config.py`, `ViewerConfig.websocket_host`; nerfstudio #2740).

    Args:
        viewer: a nerfstudio `ViewerConfig`.
    """
    return replace(viewer, websocket_host=LOCAL_HOST) if viewer.websocket_host == EVERY_INTERFACE else None


def show_last_step(steps: int) -> None:
    """Tell nerfstudio's table of times when the training ends.

    It goes by the configured number, which a training by time lacks, and divides by it (`utils/writer.py`).
    """
    from nerfstudio.utils.writer import GLOBAL_BUFFER

    GLOBAL_BUFFER["max_iter"] = max(1, steps)


# ---------------------------------------------------------------- scores

_PATIENCE = 10.0
"""Seconds that a download may be silent."""


def load_lpips() -> Any:
    """LPIPS of torchmetrics, of values in [0, 1].

    Its constructor downloads AlexNet's weights, and nerfstudio calls it when it builds a model: without a
    network nothing trains (nerfstudio #2415). To be called at the first score.

    Raises:
        Exception: whatever a download can raise.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        return LearnedPerceptualImagePatchSimilarity(normalize=True)
    finally:
        socket.setdefaulttimeout(patience)


# ---------------------------------------------------------------- cameras


def to_float32(cameras: Any) -> None:
    """Convert intrinsics that some of nerfstudio's parsers leave in float64, which no rasterizer takes.

    Args:
        cameras: nerfstudio `Cameras`, changed in place.
    """
    for name in ("fx", "fy", "cx", "cy"):
        setattr(cameras, name, getattr(cameras, name).float())


def on_axis_where_undefined(directions: Float[Tensor, "*pixels 3"]) -> Float[Tensor, "*pixels 3"]:
    """Rays in camera axes, ahead on the axis of a fisheye, where `Cameras` divides by zero."""
    return torch.where(directions.isfinite(), directions, directions.new_tensor([0.0, 0.0, 1.0]))


# ---------------------------------------------------------------- viewer


def remake_time_slider(
    panel: Any, server: Any, limits: tuple[float, float], step: float, hint: str, on_change: Callable[[], Any]
) -> Any:
    """Make the viewer's time slider anew, in the current folder, with another range.

    nerfstudio fixes it to [0, 1] (`viewer/control_panel.py`; nerfstudio #2936), and viser cannot change the
    range of a slider; the viewer still reads its value.

    Args:
        panel: nerfstudio's control panel.
        server: viser's.
        limits: the smallest and the largest time.
        step: of the slider.
        hint: what it says under the mouse.
        on_change: called beside the viewer's own action.
    """
    slider = panel._time
    rerender = slider.cb_hook
    slider.remove()
    (slider.min, slider.max), slider.step, slider.hint = limits, step, hint
    slider.cb_hook = lambda element: [rerender(element), on_change()]
    slider.install(server)
    return slider


# ---------------------------------------------------------------- export


def take_splatfacto_form(model: Any) -> None:
    """Make a model an instance of Splatfacto too, with the parameters of the scene that it shows at time 0.

    `ns-export gaussian-splat` takes instances of `SplatfactoModel` only (`scripts/exporter.py`; nerfstudio
    #2774).

    Args:
        model: a `GaussianModel`; is loaded, not trained; all else of it stays as it is.
    """
    model.__class__ = _form_of(type(model))


class _SplatfactoForm:
    """The parameters by Splatfacto's names and in its units: logarithms of scales, logits of opacities."""

    @property
    def means(self) -> Float[Tensor, "n 3"]:
        return self._exported.means

    @property
    def quats(self) -> Float[Tensor, "n 4"]:
        return self._exported.quats

    @property
    def scales(self) -> Float[Tensor, "n 3"]:
        return self._exported.log_scales

    @property
    def opacities(self) -> Float[Tensor, "n 1"]:
        return self._exported.opacity_logits[:, None]

    @property
    def shs_0(self) -> Float[Tensor, "n 3"]:
        return self._exported.sh[:, 0]

    @property
    def shs_rest(self) -> Float[Tensor, "n k 3"]:
        return self._exported.sh[:, 1:]

    @property
    def colors(self) -> Float[Tensor, "n 3"]:
        return self.shs_0 * SH_C0 + 0.5

    @cached_property
    def _exported(self) -> Gaussians:
        from nerfstudio.utils.rich_utils import CONSOLE

        CONSOLE.log("This is the scene at time 0; `nest-export splat` writes other times and scenes too.")
        with torch.no_grad():
            return self.shown_scene().gaussians_at(0.0)  # type: ignore[attr-defined]

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.load_state_dict(self, *args, **kwargs)  # type: ignore[arg-type]


@cache
def _form_of(kind: type) -> type:
    from nerfstudio.models.splatfacto import SplatfactoModel

    return type(kind.__name__, (_SplatfactoForm, kind, SplatfactoModel), {"__module__": kind.__module__})


# ---------------------------------------------------------------- gsplat

RADII_PER_AXIS = tuple(map(int, version("gsplat").split(".")[:2])) >= (1, 5)
"""Whether the `radii` of gsplat have one value for each image axis, as from 1.5 on (gsplat #629); nerfstudio
1.1.5 pins 1.4.0."""


def to_one_radius(info: dict[str, Any]) -> dict[str, Any]:
    """The `info` of gsplat's rasterization with `radii` [C, N], whatever the version."""
    return {**info, "radii": info["radii"].amax(-1)} if RADII_PER_AXIS else info


def to_strategy(info: dict[str, Any]) -> dict[str, Any]:
    """An `info` with `radii` [C, N] as the strategies of the installed gsplat read it."""
    return {**info, "radii": info["radii"][..., None].expand(-1, -1, 2)} if RADII_PER_AXIS else info
