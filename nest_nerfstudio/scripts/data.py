"""`nest-data`: make and inspect data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from nest_nerfstudio.data.synthetic import ToySceneConfig, make_toy_scene


def toy(output: Path, config: Annotated[ToySceneConfig, tyro.conf.arg(name="")] = ToySceneConfig()) -> None:  # noqa: B008
    """Render a small scene of a walking figure, in D-NeRF's format.

    Args:
        output: Folder to write; a broken run with the same settings goes on there.
        config: What to render.
    """
    scene = make_toy_scene(output, config)
    print(f"The scene is in {scene}. Train on it: ns-train nest-dynamic --data {scene}")


def entrypoint() -> None:
    """Run the command line; bad input ends in one line."""
    try:
        tyro.extras.subcommand_cli_from_dict({"toy": toy})
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"nest-data: {error}") from error


if __name__ == "__main__":
    entrypoint()
