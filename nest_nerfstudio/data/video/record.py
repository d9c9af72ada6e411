"""Which steps of a data set are done, with which inputs, so that they are not done again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nest_nerfstudio.files import written_whole

NAME = "video.json"


@dataclass
class Record:
    """Steps that are done in a folder, as `video.json` there has them.

    Attributes:
        folder: of the data set.
        steps: by name, what each depends on (`settings`) and gave (`result`); the result is missing of one
            that is not finished.
    """

    folder: Path
    steps: dict[str, dict[str, Any]]

    @staticmethod
    def of(folder: Path) -> Record:
        """The record of a folder, which is made if it is not there.

        Raises:
            ValueError: the folder holds something else.
        """
        path = folder / NAME
        if path.exists():
            return Record(folder, json.loads(path.read_text()))
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty and was not made from a video; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        return Record(folder, {})

    def once(self, name: str, settings: dict[str, Any], work: Callable[[Path], Any]) -> Any:
        """The result of a step, which is done if it has not been done with these settings.

        Args:
            name: of the step, and of the folder that it writes. A step that was interrupted goes on with what
                is there; one with other settings starts anew.
            settings: all that the result depends on; as JSON.
            work: does the step in its folder, which is there, and returns its result as JSON.
        """
        folder, settings = self.folder / name, json.loads(json.dumps(settings))
        step = self.steps.get(name)
        if step is None or step["settings"] != settings:
            shutil.rmtree(folder, ignore_errors=True)
            step = {"settings": settings}
        if "result" not in step or not folder.is_dir():
            self._save(name, {"settings": settings})
            folder.mkdir(exist_ok=True)
            self._save(name, {"settings": settings, "result": work(folder)})
        return self.steps[name]["result"]

    def _save(self, name: str, step: dict[str, Any]) -> None:
        self.steps[name] = step
        with written_whole(self.folder / NAME) as part:
            part.write_text(json.dumps(self.steps, indent=1))
