"""The house rule on imports: down only, stations apart, and a command line that starts at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "assetmill"
LEVELS = {
    "records": 0,
    "yaml_text": 1,
    "config": 1,
    "storage": 2,
    "intake": 3,
    "engines": 3,
    "curate": 3,
    "deliver": 3,
    "starter": 3,
    "operate": 4,
    "review": 4,
    "pipeline": 5,
    "cli": 6,
    "__init__": 0,
    "__main__": 7,
}
STATIONS = {"intake", "engines", "curate", "deliver"}
# The starter pack is the default model: engines may ask where it lies (a torch-free module), and the pack trains,
# measures and shows itself with its own code only.
ALLOWED = {("engines", "assetmill.starter.locations"), ("intake", "assetmill.starter.locations")}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Names of assetmill modules a file imports, anywhere in it, outside `if TYPE_CHECKING`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "assetmill"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "assetmill":
            found |= {node.module} if node.module != "assetmill" else {f"assetmill.{a.name}" for a in node.names}
    return found - {"assetmill", "assetmill.__version__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """No room imports a room above it, and no station another station."""
    here = room(path)
    for name in imports_of(path):
        there = name.split(".")[1]
        if there == here or (here, name) in ALLOWED:
            continue
        assert LEVELS[there] <= LEVELS[here], f"{path.name} in {here} imports {name}, which lies above it"
        assert not ({here, there} <= STATIONS), f"station {here} imports station {there} ({path.name})"
        if here in STATIONS:
            assert there != "starter", f"{path.name}: only assetmill.starter.locations may be asked"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_prefect_stays_in_flows(path: Path) -> None:
    """The package works without an orchestrator: prefect and ray are imported by flows/ only."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        assert not any(n.split(".")[0] in ("prefect", "ray") for n in names), path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    """A file does one thing in at most about 500 lines."""
    assert len(path.read_text("utf-8").splitlines()) <= 520


def test_the_command_line_imports_nothing_heavy() -> None:
    """`import assetmill.cli` loads none of the heavy libraries."""
    code = (
        "import sys, assetmill.cli;"
        "print([m for m in ('torch','pandas','prefect','diffusers','transformers','boto3','pyarrow','PIL','numpy')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
