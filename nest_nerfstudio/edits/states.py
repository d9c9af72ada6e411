"""The known states of scenes in a data set as actions on a latent."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nest_nerfstudio.edits.light import sun_sky_light
from nest_nerfstudio.edits.scene_edit import EditableField
from nest_nerfstudio.geometry.quaternion import quat_exp
from nest_nerfstudio.geometry.se3 import Pose, se3_compose, se3_inverse
from nest_nerfstudio.states import Edit
from nest_nerfstudio.types import SceneLatent


def to_state(
    latent: SceneLatent,
    field: EditableField,
    edit: Edit,
    seen_as: Edit = Edit(),  # noqa: B008
) -> SceneLatent:
    """The scene in another state: g(edit) g(seen_as)⁻¹ · Z.

    The object turns and moves, the hue of its albedo shifts, and the light becomes that of the edit where
    that is known and differs.

    Args:
        latent: of the scene in the state `seen_as`.
        field: the field of the latent, which knows where its colours are.
        edit: the requested state.
        seen_as: the state of the latent.

    Raises:
        ValueError: the two differ in `stretch`, which no group acting on the latent carries out.
    """
    if edit.stretch != seen_as.stretch:
        raise ValueError("stretching is no action on a latent: encode the stretched scene")
    there, back = placement(edit, latent.translations), se3_inverse(placement(seen_as, latent.translations))
    latent = latent.move(se3_compose(there, back))
    if edit.hue != seen_as.hue:
        everything = torch.ones(len(latent), dtype=torch.bool, device=latent.quats.device)
        latent = field.recolor(latent, everything, edit.hue - seen_as.hue, (1.0, 1.0, 1.0))
    if edit.light is not None and edit.light != seen_as.light:
        latent = replace(latent, light=sun_sky_light(edit.light, latent.light))
    return latent


def placement(edit: Edit, like: Tensor) -> Pose:
    """Pose of the object in a state: turned about z, then moved."""
    turn = torch.tensor([0.0, 0.0, edit.yaw]).to(like)
    return quat_exp(turn), torch.tensor(edit.translate).to(like)
