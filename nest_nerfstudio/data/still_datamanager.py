"""Data manager of a scene that stands still: one or more posed images of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs

from nest_nerfstudio.data.datamanager import DynamicDatamanager, DynamicDatamanagerConfig
from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig
from nest_nerfstudio.data.frame_order import FrameOrder
from nest_nerfstudio.spread import spread


@dataclass
class StillDatamanagerConfig(DynamicDatamanagerConfig):
    """Settings of `StillDatamanager`."""

    _target: type = field(default_factory=lambda: StillDatamanager)
    dataparser: AnnotatedDataParserUnion = field(
        default_factory=lambda: NestDynamicDataParserConfig(time_from="still", eval_interval=0)
    )
    missing_times: Literal["error", "static"] | FrameOrder = "static"
    """Times of a data parser that gives none; they are not looked at."""
    num_views: int = 0
    """Number of train views to use, evenly spread over their order; 0 uses all."""


class StillDatamanager(DynamicDatamanager):
    """Gives one train image a step, whatever the times of its data parser say."""

    config: StillDatamanagerConfig

    def choose_train(self, outputs: DataparserOutputs) -> DataparserOutputs:
        """The first `num_views` of an even spread; ValueError if there are fewer."""
        total, count = len(outputs.image_filenames), self.config.num_views
        if not 0 <= count <= total:
            raise ValueError(f"num_views must be 0 (all) or at most the {total} train views, not {count}")
        if count in (0, total):
            return outputs
        chosen = spread(range(total), count)
        masks, depths = outputs.mask_filenames, outputs.metadata.get("depth_filenames")
        return replace(
            outputs,
            image_filenames=[outputs.image_filenames[i] for i in chosen],
            cameras=outputs.cameras[torch.tensor(chosen)],
            mask_filenames=[masks[i] for i in chosen] if masks else None,
            metadata={**outputs.metadata, "depth_filenames": [depths[i] for i in chosen] if depths else None},
        )
