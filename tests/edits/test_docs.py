"""docs/edits.md names every step, selection and field, and its examples are edits."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from nest_nerfstudio.edits.scene_edit import SceneEdit
from nest_nerfstudio.edits.selection import SELECTIONS
from nest_nerfstudio.edits.steps import STEPS

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "edits.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*STEPS, *list(SELECTIONS)[1:]])
def test_every_step_and_selection_is_documented_with_its_fields(name: str) -> None:
    kind = STEPS.get(name) or SELECTIONS[name]
    start = re.search(rf"\| (`\w+`, )?`{name}`", DOCS)
    assert start
    rows = [DOCS[start.start() :].splitlines()[0]]
    for row in DOCS[start.start() :].splitlines()[1:]:
        if not row.startswith("| |"):
            break
        rows.append(row)
    for part in fields(kind):
        assert f"`{part.name}`" in "\n".join(rows), part.name


@pytest.mark.parametrize("page", ["docs/edits.md", "README.md"])
def test_examples_in_the_documentation_are_edits(page: str, tmp_path: Path) -> None:
    found = re.findall(r"```json\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found
    for i, text in enumerate(found):
        path = tmp_path / f"{i}.json"
        path.write_text(text)
        assert SceneEdit.load(path).steps
