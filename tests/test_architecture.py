"""Who may import whom: the direction of the design, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nest_nerfstudio"
STAGES = {"encoders", "edits", "dynamics", "fields", "rasterizers", "losses"}
ALLOWED = {
    "geometry": {"geometry", "types", "compiled"},
    "types": {"geometry"},
    "data": {"data", "geometry", "types"},
    **{stage: {stage, "geometry", "types", "compiled", "thread_pool"} for stage in STAGES},
    "viewer": {"viewer", "geometry", "types"},
    "models": {"models", "geometry", "types", "viewer"} | STAGES,
    "pipelines": {"pipelines", "models", "data", "geometry", "types", "thread_pool"},
}
ONLY_IN = {
    "gsplat": {"rasterizers"},
    "numba": {"compiled", "rasterizers"},
    "torchdiffeq": {"dynamics"},
    "e3nn": {"geometry", "encoders"},
    "nerfstudio.viewer": {"viewer"},
}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem == "types")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_design(path: Path) -> None:
    part = part_of(path)
    for name in imports(path):
        if name.startswith("nest_nerfstudio.") and part in ALLOWED:
            assert name.split(".")[1] in ALLOWED[part], f"{part} must not import {name}"
        for package, homes in ONLY_IN.items():
            if name == package or name.startswith(package + "."):
                assert part in homes, f"{name} belongs in {homes}"


def test_finds_a_forbidden_import(tmp_path: Path) -> None:
    """The reader of imports sees plain, from and nested imports."""
    path = tmp_path / "bad.py"
    path.write_text("import gsplat.strategy\ndef f():\n    from nest_nerfstudio.models import x\n")
    assert imports(path) == {"gsplat.strategy", "nest_nerfstudio.models"}
