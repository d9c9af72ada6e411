"""nerfstudio Pipelines and the trainer: they bring data and model together."""
