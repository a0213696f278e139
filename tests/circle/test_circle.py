"""The circle turns, as `make circle` turns it; its story is read from report.json, and nothing of it is left."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("circle") / "report"
    command = [sys.executable, "-m", "flows.circle", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (output / "report.html").exists()
    return json.loads((output / "report.json").read_text())


def decisions(told: dict[str, Any]) -> dict[str, str]:
    return {name: row["verdict"]["decision"] for name, row in told["experiments"].items()}


def gain(row: dict[str, Any], metric: str) -> dict[str, Any]:
    return next(each for each in row["verdict"]["estimates"] if each["metric"] == metric)


def test_no_request_failed_while_versions_came_and_went(told: dict[str, Any]) -> None:
    assert told["requests"]["failed"] == 0
    assert told["requests"]["people"] > 1000
    assert told["requests"]["sent"] == 2 * told["requests"]["people"]
    first, second, bad = "v1.0.0", "v1.1.0", "v1.2.0"
    assert [(champion, challenger) for _, champion, challenger in told["moves"]] == [
        (first, None), (first, second), (second, None), (second, second), (second, None),
        (second, bad), (second, None), (bad, None), (second, None),
    ]  # fmt: skip
    assert {version for _, version, *_ in told["accuracy"]} == {first, second, bad}


def test_the_shift_was_seen_and_nothing_before_it(told: dict[str, Any]) -> None:
    assert told["false_alarms"] == []
    assert {"tsumugi.data.arrived", "tsumugi.drift.seen"} <= {each["event"] for each in told["alarms"]}
    assert any(each["drifted"] for each in told["drift"])
    assert told["drop"]["high"] < 0, "the champion's drop is sure"
    assert {run["reason"] for run in told["runs"]} <= {each["event"] for each in told["alarms"]}
    assert sorted({run["state"] for run in told["runs"]} - {"Joined", "Known"}) == ["Promoted"]


def test_verdicts_follow_from_what_was_measured(told: dict[str, Any]) -> None:
    assert told["gate"]["passed"]
    assert told["gate"]["fresh"]["gain"]["low"] > 0
    trials = told["experiments"]
    ((name, promoted),) = [each for each in trials.items() if each[0] not in ("a-a", "slipped")]
    assert decisions(told) == {name: "promote", "a-a": "keep", "slipped": "stop"}
    metric = told["metric"]
    assert gain(promoted, metric)["low"] > 0
    assert gain(trials["a-a"], metric)["low"] < 0 < gain(trials["a-a"], metric)["high"]
    assert gain(trials["slipped"], metric)["high"] < 0


def test_main_holds_the_promoted_version_and_an_answer_leads_to_the_new_data(told: dict[str, Any]) -> None:
    versions = {each["version"]: each for each in told["versions"]}
    assert {name for name, each in versions.items() if "champion" in each["stages"]} == {"v1.1.0"}
    commit = versions["v1.1.0"]["commit"]
    assert told["main"] == {"before": versions["v1.0.0"]["commit"], "after": commit, "origin": commit}
    assert (told["lineage"]["version"], told["lineage"]["commit"]) == ("v1.1.0", commit)
    assert any(source["place"].startswith("pinned/text_") for source in told["lineage"]["sources"])


def test_nothing_is_left(told: dict[str, Any]) -> None:
    assert told["left_behind"] == []
    folder = Path(told["folder"])
    assert not folder.parent.exists()
    assert not [
        each.pid for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or [])
    ]
    listening = {each.laddr.port for each in psutil.net_connections("tcp") if each.status == psutil.CONN_LISTEN}
    assert not listening & set(told["ports"])
