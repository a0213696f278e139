"""`python -m flows.stages check`: every shipped configuration fits, every mistake is one line, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.params import ParamsError
from flows.stages.__main__ import check
from flows.workspace import merge_preset

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
GRAPH = """
stages:
  download: {foreach: "${downloads}", do: {cmd: "python -m flows.stages.download ${key}"}}
  ingest: {foreach: "${sources}", do: {cmd: "python -m flows.stages.ingest ${key}"}}
  tokenizer: {foreach: "${tokenizer}", do: {cmd: "python -m flows.stages.tokenizer ${key}"}}
  shell: {cmd: echo}
"""
GOOD = {
    "downloads": {},
    "sources": {"lines": {"layout": "text", "path": "lines.txt"}},
    "tokenizer": {"small": {"english": "lines", "japanese": "lines", "vocabulary": 300}},
}
MISTAKES = [
    ({"source": {}}, "source: no stage reads this section: did you mean sources? known are "),
    ({"sources": None}, "sources: must be a mapping, one key a run; write `sources: {}` for none"),
    ({"downloads": 3}, "downloads: must be a mapping"),
    ({"sources": {"my lines": {}}}, "sources.my lines: a key names files and stages: letters, digits, _ and - only"),
    ({"sources": {3: {}}}, "sources.3: a key names files"),
    (
        {"sources": {"lines": {"layout": "text", "pth": "x"}}},
        'sources.lines.pth = "x": no such key: did you mean path?',
    ),
    ({"sources": {"words": GOOD["sources"]["lines"]}}, 'tokenizer.small.english = "lines": sources has no such key'),
]


def dump(content: dict, path: Path) -> str:
    with open(path, "w", encoding="utf-8") as file:
        YAML().dump(content, file)
    return str(path)


@pytest.fixture
def graph(tmp_path: Path) -> str:
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    return str(tmp_path / "dvc.yaml")


def test_parameters_that_fit_are_counted(graph: str, tmp_path: Path) -> None:
    assert check(dump(GOOD, tmp_path / "params.yaml"), graph) == 2


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_a_mistake_is_one_line(change: dict, message: str, graph: str, tmp_path: Path) -> None:
    path = dump(GOOD | change, tmp_path / "params.yaml")
    with pytest.raises(ParamsError) as error:
        check(path, graph)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_fit(preset: Path, tmp_path: Path) -> None:
    assert check(dump(merge_preset(ROOT, preset), tmp_path / "params.yaml"), str(ROOT / "dvc.yaml"))


def test_the_check_is_light_and_the_demo_fits() -> None:
    code = "import sys; from flows.stages.__main__ import check; print(check() > 0, 'torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("True False\n", "")
