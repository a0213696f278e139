"""What the import contract in pyproject.toml needs to be whole, and the rules on packages that it cannot say."""

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_imports_go_one_way() -> None:
    """In a process of its own: import-linter turns off every logger that is there before it."""
    lint = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(cache_dir=None))"
    done = subprocess.run([sys.executable, "-c", lint], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_flow_is_under_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    files = {f"flows.{path.stem}" for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__"}
    packages = {f"flows.{path.parent.name}" for path in (ROOT / "flows").glob("*/__init__.py")}
    assert set(contracts[-1]["source_modules"]) == files | packages - {"flows.stages"}


def test_every_room_has_its_place_in_the_layers() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip(" ()") for layer in layers for name in layer.split("|")}
    rooms = {f"components.{path.parent.name}" for path in (ROOT / "components").glob("*/__init__.py")}
    assert rooms <= named


def test_packages_are_empty() -> None:
    """A re-export would make every stage depend on every part of a room."""
    for room in ("components", "flows"):
        folders = {path.parent for path in (ROOT / room).rglob("*.py")}
        assert {folder: (folder / "__init__.py").read_text() for folder in folders} == dict.fromkeys(folders, "")
