"""Every file that a stage opens or makes is declared in dvc.yaml: run for real, watched by inotify."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import networkx
import pytest
from dvc.repo import Repo
from dvc.stage import PipelineStage
from ruamel.yaml import YAML

from flows.workspace import merge_preset
from tests.contracts.opened import Opened

ROOT = Path(__file__).parents[2]
FREE = ("params.yaml", "packages.yaml", ".store")  # parameters stand in `params`; the store makes no difference to bits
FEW = """\
sources:
  world_text: {world: {train: 60, valid: 20, test: 20}}
  lines: {layout: text, path: lines.txt, held_out: {valid: {share: 0.2}, test: {share: 0.2}}}
tokenizer:
  world: {vocabulary: 300}
"""


def make_clone(clone: Path, overlay: Path) -> Path:
    """The code of this repository with its parameters under an overlay."""
    for room in ("components", "flows"):
        shutil.copytree(ROOT / room, clone / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "packages.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, clone)
    (clone / ".dvc").mkdir()
    (clone / ".dvc" / "config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    with open(clone / "params.yaml", "w", encoding="utf-8") as file:
        YAML().dump(merge_preset(ROOT, overlay), file)
    return clone


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Little data, of a generated source and of one that is not."""
    overlay = tmp_path_factory.mktemp("preset") / "few.yaml"
    overlay.write_text(FEW)
    clone = make_clone(tmp_path_factory.mktemp("clone"), overlay)
    (clone / "lines.txt").write_text("".join(f"line {number}\n" for number in range(100)))
    return clone


def stages(clone: Path, targets: list[str] | None) -> Iterator[PipelineStage]:
    """The targets with all that they need, or all stages; each after what it needs."""
    with Repo(str(clone)) as repo:
        graph = repo.index.graph
        wanted = [stage for stage in graph if targets is None or stage.name in targets]
        needed = set(wanted).union(*(networkx.descendants(graph, stage) for stage in wanted))
        yield from (stage for stage in reversed(list(networkx.topological_sort(graph))) if stage in needed)


def undeclared(stage: PipelineStage, clone: Path) -> tuple[list[str], list[str]]:
    """Run it; the files that it opened and made, without those that it declares."""
    deps, outs = ([str(entry) for entry in entries] for entries in (stage.deps, stage.outs))
    before = set(clone.rglob("*"))
    with Opened(clone) as opened:
        command = [sys.executable, "-B", *stage.cmd.split()[1:]]
        ended = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    made = {str(path.relative_to(clone)) for path in set(clone.rglob("*")) - before if path.is_file()}
    read = {path for path in opened.files if not path.endswith("/__init__.py")}  # empty, by test_layers.py
    return _others(read, [*deps, *outs, *FREE]), _others(made, [*outs, *FREE])


def _others(paths: set[str], declared: list[str]) -> list[str]:
    return sorted(path for path in paths if not any(Path(path).is_relative_to(entry) for entry in declared))


def check(clone: Path, targets: list[str] | None) -> None:
    found = {stage.name: undeclared(stage, clone) for stage in stages(clone, targets)}
    assert found.keys() >= set(targets or [])
    assert found == dict.fromkeys(found, ([], []))


def test_the_watch_sees_undeclared_files(clone: Path) -> None:
    stage = next(stages(clone, ["ingest@lines"]))
    stage.deps = []
    stage.outs = []
    opened, made = undeclared(stage, clone)
    assert {"lines.txt", "flows/stages/ingest.py"} <= set(opened)
    assert any(path.startswith("data/shards/lines/") for path in made)


def test_stages_of_data_open_what_they_declare(clone: Path) -> None:
    check(clone, ["validate@world_text", "tokenizer@world", "ingest@lines"])


@pytest.mark.slow
def test_every_stage_opens_what_it_declares(tmp_path: Path) -> None:
    check(make_clone(tmp_path, ROOT / "presets" / "tiny.yaml"), None)
