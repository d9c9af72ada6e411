"""Models in the form in which `ns-export gaussian-splat` takes them: it tests for nerfstudio's Splatfacto."""

from __future__ import annotations

from functools import cache, cached_property
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from nest_nerfstudio.geometry.sh import SH_C0
from nest_nerfstudio.models.gaussian_model import GaussianModel
from nest_nerfstudio.types import Gaussians


def take_splatfacto_form(model: GaussianModel) -> None:
    """Make a model an instance of Splatfacto too, with the parameters of the scene that it shows at time 0.

    Args:
        model: is loaded, not trained; all else of it stays as it is.
    """
    model.__class__ = _form_of(type(model))


class _SplatfactoForm(GaussianModel):
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
        CONSOLE.log("This is the scene at time 0; `nest-export splat` writes other times and scenes too.")
        with torch.no_grad():
            return self.shown_scene().gaussians_at(0.0)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.load_state_dict(self, *args, **kwargs)


@cache
def _form_of(kind: type[GaussianModel]) -> type[GaussianModel]:
    return type(kind.__name__, (_SplatfactoForm, kind, SplatfactoModel), {"__module__": kind.__module__})
