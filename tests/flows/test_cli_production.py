"""The commands that look after versions, as a person types them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from components.inference import pointer
from flows.cli_production import app
from flows.releases import registry
from flows.workspace import Refused
from tests.flows.released import NAME


@pytest.fixture
def versioned(project: Path) -> Path:
    for ref in ("first", "third"):
        registry.register(project, NAME, ref)
    return project


def tsumugi(repo: Path, *arguments: str) -> Result:
    places = ["--repo", str(repo)] + (
        ["--serving", str(repo / ".store" / "serving")] if arguments[0] != "versions" else []
    )
    return CliRunner().invoke(app, [*arguments, *places], catch_exceptions=False)


def test_deploy_try_promote_and_roll_back(versioned: Path) -> None:
    assert tsumugi(versioned, "deploy", NAME, "v1.0.0").stdout == "decoder: champion v1.0.0; pointer 1\n"
    tried = tsumugi(versioned, "deploy", NAME, "v1.1.0", "--share", "0.1", "--experiment", "e1")
    assert tried.stdout == "decoder: champion v1.0.0, beside it v1.1.0 (canary, 10%); pointer 2\n"
    listed = json.loads(tsumugi(versioned, "versions", "--json").stdout)
    assert [(each["version"], each["stages"]) for each in listed] == [
        ("v1.0.0", ["champion"]),
        ("v1.1.0", ["challenger"]),
    ]
    assert tsumugi(versioned, "rollback", NAME, "--challenger").stdout == "decoder: champion v1.0.0; pointer 3\n"
    assert tsumugi(versioned, "deploy", NAME, "v1.1.0").stdout == "decoder: champion v1.1.0; pointer 4\n"
    assert tsumugi(versioned, "rollback", NAME).stdout == "decoder: champion v1.0.0; pointer 5\n"
    assert pointer.read(versioned / ".store" / "serving" / "decoder.json").champion.version == "v1.0.0"
    assert "v1.1.0" in tsumugi(versioned, "versions", NAME).stdout


def test_trace_in_every_form(versioned: Path, tmp_path: Path) -> None:
    shown = tsumugi(
        versioned, "trace", f"{NAME}@v1.1.0", "--page", f"{tmp_path}/page.html", "--events", f"{tmp_path}/e.jsonl"
    )
    for word in ("decoder@v1.1.0", "ingest@world", "raw/world", "https://example.org/world", '{"rate": 0.2}'):
        assert word in shown.stdout
    assert (tmp_path / "page.html").stat().st_size > 5000 and len((tmp_path / "e.jsonl").read_text().splitlines()) == 3
    plain = json.loads(tsumugi(versioned, "trace", f"{NAME}@v1.1.0", "--json").stdout)
    assert [step["name"] for step in plain["steps"]][-1] == "train"
    forward = json.loads(tsumugi(versioned, "trace", "raw/world", "--forward", "--json").stdout)
    assert [each["version"] for each in forward] == ["v1.0.0", "v1.1.0"]
    assert "decoder@v1.0.0" in tsumugi(versioned, "trace", "raw/world", "--forward").stdout
    with pytest.raises(Refused, match="no registered version has seen raw/nothing"):
        tsumugi(versioned, "trace", "raw/nothing", "--forward")
