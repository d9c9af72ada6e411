"""`nest-dynamic-data`: the data parser of nest-dynamic.

In a module of its own: nerfstudio loads data parsers while its own trainer is still being imported.
"""

from __future__ import annotations

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from nest_nerfstudio.data.dataparser import NestDynamicDataParserConfig

nest_dynamic_data = DataParserSpecification(
    config=NestDynamicDataParserConfig(),
    description="D-NeRF JSON or transforms.json with a time for every frame.",
)
