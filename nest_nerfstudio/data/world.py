"""The coordinates in which a scene is trained: whatever the unit and origin of its data, of one size."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.scene_box import SceneBox
from torch import Tensor

from nest_nerfstudio.geometry.convergence import convergence

EXTENT = 1.5
"""Half the side of the scene box: what cameras see around the point where they converge. Learning rates,
motion and regularisers are tuned to it."""
TOLERANCE = 1.25
"""Ratio to `EXTENT` up to which a scene keeps its coordinates."""
IN_THE_MIDDLE = 0.5
"""Share of the half image within which a camera looks at the centre of a box."""
GIVEN_BOX = "scene_box_is_given"
"""Metadata of a data parser whose user gave the box; it stays, whatever the cameras look at."""


@dataclass(frozen=True)
class World:
    """The similarity from the coordinates of a data parser to those of training, x ↦ scale (x − centre).

    Attributes:
        centre: what becomes the origin, parsed coordinates.
        scale: factor on lengths.
    """

    centre: Float[Tensor, " 3"]
    scale: float

    @property
    def is_as_parsed(self) -> bool:
        """Whether nothing changes."""
        return self.scale == 1.0 and not self.centre.any()

    def __call__(self, positions: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
        """Positions in the coordinates of training."""
        return (self.scale * (positions.double() - self.centre)).to(positions)

    def until(self, other: World) -> World:
        """The similarity from these coordinates to others of the same data."""
        return World(self.scale * (other.centre - self.centre), other.scale / self.scale)

    def describe(self) -> str:
        """What changes, for the log."""
        centre = " ".join(f"{value:.4g}" for value in self.centre.tolist())
        return f"World: {centre} of the data becomes the origin, and lengths grow by {self.scale:.4g}."

    def move(self, cameras: Cameras) -> Cameras:
        """Cameras in the coordinates of training."""
        moved, poses = copy.copy(cameras), cameras.camera_to_worlds
        moved.camera_to_worlds = torch.cat([poses[..., :3], self(poses[..., 3])[..., None]], -1)
        return moved

    def apply(self, outputs: DataparserOutputs) -> DataparserOutputs:
        """What a data parser gave, in the coordinates of training; `dataparser_transform` follows."""
        if self.is_as_parsed:
            return outputs
        cameras = self.move(outputs.cameras)
        metadata = dict(outputs.metadata)
        if "points3D_xyz" in metadata:
            metadata["points3D_xyz"] = self(metadata["points3D_xyz"])
        box = outputs.scene_box.aabb
        is_given = metadata.get(GIVEN_BOX, False)
        transform = outputs.dataparser_transform.clone()
        transform[:, 3] -= (self.centre / outputs.dataparser_scale).to(transform)
        return replace(
            outputs,
            cameras=cameras,
            scene_box=SceneBox(aabb=self(box) if is_given else box.new_tensor([[-EXTENT] * 3, [EXTENT] * 3])),
            dataparser_transform=transform,
            dataparser_scale=outputs.dataparser_scale * self.scale,
            metadata=metadata,
        )


def find_world(outputs: DataparserOutputs) -> World:
    """Find the coordinates in which to train a scene.

    The scene box becomes one of `EXTENT` around the origin. It is that of the data parser if the cameras look
    at it and it fills their images; else what they see where they converge, or the seed points where they do
    not. A scene that has this size and place already, as D-NeRF's have, keeps its coordinates.

    Args:
        outputs: of the train split.
    """
    cameras = outputs.cameras
    box = outputs.scene_box.aabb.double()
    centre, extent = box.mean(0), float(box.diff(dim=0).amax()) / 2
    if not _is_looked_at(cameras, centre, extent):
        centre, extent = _seen(cameras, outputs.metadata.get("points3D_xyz"))
    is_of_size = 1 / TOLERANCE <= extent / EXTENT <= TOLERANCE
    if is_of_size and float(centre.norm()) <= (TOLERANCE - 1) * extent:
        return World(torch.zeros(3, dtype=torch.float64), 1.0)
    return World(centre, 1.0 if is_of_size else EXTENT / extent)


def _is_looked_at(cameras: Cameras, centre: Float[Tensor, " 3"], extent: float) -> bool:
    """Whether most cameras have a box in the middle of their images, which it about fills."""
    poses = cameras.camera_to_worlds.double()
    x, y, z = (poses[:, :, :3].mT @ (centre - poses[:, :, 3])[..., None])[..., 0].unbind(1)
    beside = (
        x.abs() * cameras.fx[:, 0] / cameras.width[:, 0],
        y.abs() * cameras.fy[:, 0] / cameras.height[:, 0],
    )
    middle = (z < 0) & (torch.maximum(*beside) <= -z * IN_THE_MIDDLE / 2)
    seen = (-z * _half_views(cameras)).median().item()
    return middle.double().mean().item() >= 0.75 and seen <= TOLERANCE * extent <= TOLERANCE**2 * seen


def _seen(cameras: Cameras, points: Tensor | None) -> tuple[Float[Tensor, " 3"], float]:
    """Centre and half the side of what cameras look at."""
    found = convergence(cameras.camera_to_worlds)
    if points is not None and len(points) and not found.is_certain:
        centre = points.double().median(0).values
        reach = (points.double() - centre).abs().amax(1).sort().values
        return centre, 1.25 * float(reach[int(0.8 * (len(reach) - 1))])
    return found.point, found.distance * _half_views(cameras).median().item()


def _half_views(cameras: Cameras) -> Float[Tensor, " v"]:
    """Half of what each camera sees at distance 1, along the shorter side of its image."""
    halves = torch.stack([cameras.width / cameras.fx, cameras.height / cameras.fy])
    return 0.5 * halves.amin(0)[:, 0].double()
