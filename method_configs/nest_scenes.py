"""`nest-scenes`: the data parser of many scenes.

In a module of its own: nerfstudio loads data parsers while its own trainer is still being imported.
"""

from __future__ import annotations

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from nest_nerfstudio.data.scenes.dataparser import NestScenesConfig

nest_scenes = DataParserSpecification(
    config=NestScenesConfig(),
    description="A folder of scenes with scenes.json, or a list of scenes in one of nerfstudio's formats.",
)
