"""Who may import whom: the directions of the design, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nest_nerfstudio"
STAGES = {"encoders", "edits", "dynamics", "fields", "rasterizers", "losses"}
BASE = {"states", "types", "geometry", "host", "moments", "spread"}
ALLOWED = {
    "compiled": set(),
    "files": set(),
    "moments": set(),
    "spread": set(),
    "thread_pool": set(),
    "geometry": {"compiled"},
    "types": {"geometry"},
    "host": {"types", "geometry"},
    "states": {"types"},
    "cameras": BASE,
    "sight": BASE | {"cameras"},
    "io": BASE | {"files"},
    **{stage: BASE | {"compiled", "files", "thread_pool"} for stage in STAGES},
    "data": BASE | {"cameras", "files", "io"},
    "synthesis": BASE | {"data", "files"},
    "viewer": BASE | {"io", "edits"},
    "training": BASE | STAGES | {"cameras"},
    "models": BASE | STAGES | {"cameras", "sight", "training", "viewer"},
    "pipelines": BASE | {"cameras", "data", "files", "models", "training", "thread_pool"},
    "method_configs": {"data", "host", "pipelines"},
    "analysis": BASE | STAGES | {"cameras", "data", "models", "pipelines", "synthesis"},
    "scripts": BASE
    | {"analysis", "data", "dynamics", "edits", "io", "models", "pipelines", "synthesis", "method_configs"},
}
"""Parts that each part may import, besides itself and the package's own `__init__`."""
ONLY_IN = {
    "gsplat": {"rasterizers", "training"},
    "numba": {"compiled", "rasterizers"},
    "torchdiffeq": {"dynamics"},
    "e3nn": {"geometry", "encoders", "analysis"},
    "sklearn": {"analysis"},
    "mitsuba": {"synthesis"},
    "plyfile": {"io"},
    "pycolmap": {"data"},
    "av": {"data"},
    "nerfstudio.viewer": {"viewer"},
}
"""Parts that alone may import a library."""


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            if node.module == "nest_nerfstudio":
                found |= {f"nest_nerfstudio.{alias.name}" for alias in node.names if alias.name[0] != "_"}
    return found


def part_of(path: Path) -> str:
    folder = PACKAGE if path.is_relative_to(PACKAGE) else ROOT
    return path.relative_to(folder).parts[0].removesuffix(".py")


def our_parts(path: Path) -> set[str]:
    """Parts of ours that a module imports, without its own."""
    names = {name for name in imports(path) if name.startswith("nest_nerfstudio.")}
    return {name.split(".")[1] for name in names} - {part_of(path)}


MODULES = sorted(
    {*PACKAGE.rglob("*.py"), *(ROOT / "method_configs").glob("*.py")} - {PACKAGE / "__init__.py"}
)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_design(path: Path) -> None:
    part = part_of(path)
    assert our_parts(path) <= ALLOWED[part], f"{part} must not import {our_parts(path) - ALLOWED[part]}"
    for name in imports(path):
        for package, homes in ONLY_IN.items():
            if name == package or name.startswith(package + "."):
                assert part in homes, f"{name} belongs in {homes}"


def test_no_two_parts_import_each_other() -> None:
    """The allowed directions, and so the imports, have no cycle."""
    left = {part: set(others) for part, others in ALLOWED.items()}
    while left:
        bottom = {part for part, others in left.items() if not others & left.keys()}
        assert bottom, f"a cycle among {sorted(left)}"
        left = {part: others for part, others in left.items() if part not in bottom}


def test_every_part_is_listed() -> None:
    assert {part_of(path) for path in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_long(path: Path) -> None:
    """Kernels and glTF, each of one subject that does not divide, may be longer."""
    if "kernels" not in path.stem and path.stem != "gltf":
        assert len(path.read_text().splitlines()) <= 400


def test_finds_a_forbidden_import(tmp_path: Path) -> None:
    """The reader of imports sees plain, from and nested imports, and names of the package itself."""
    path = tmp_path / "bad.py"
    path.write_text(
        "import gsplat.strategy\ndef f():\n    from nest_nerfstudio.models import x\n"
        "from nest_nerfstudio import __version__, types\n"
    )
    found = {"gsplat.strategy", "nest_nerfstudio.models", "nest_nerfstudio", "nest_nerfstudio.types"}
    assert imports(path) == found
