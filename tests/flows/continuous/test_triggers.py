"""What calls for a retraining is seen, told once, and becomes a run with the event's payload as its parameters."""

import json
import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.events import emit_event
from sqlalchemy import func, select

from components.inference.traffic import Traffic
from components.inference.traffic_tables import database, outcomes
from flows import server as servers
from flows.cli_continuous import ask as ask_for
from flows.continuous import traffic_drift, triggers
from flows.continuous.notify import resource
from flows.continuous_training import store
from flows.deployments import register
from flows.processes import alone
from flows.workspace import ROOT
from tests.components.inference.postgres import cluster
from tests.flows.circle import NAME, Users, serving, words
from tests.flows.test_continuous_training import arrive, run
from tests.flows.tools import until


def ask(root: Path, prefix: str, count: int) -> None:
    """Requests to the champion, as the server logs them."""
    users = Users(root, prefix)
    with Traffic(database(serving(root))) as traffic:
        for number in range(count):
            users._ask(traffic, f"user{number}", number % 40)
        traffic.flush()


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_new_data_are_told_once_and_again_only_while_no_run_has_seen_to_them(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert triggers.watch(str(root)) == []
    arrive(root, words("old", 200, wrong=True))
    assert triggers.watch(str(root)) == ["tsumugi.data.arrived"]
    assert triggers.watch(str(root)) == [], "told already"
    monkeypatch.setattr(triggers, "AGAIN", 0.0)
    assert triggers.watch(str(root)) == ["tsumugi.data.arrived"], "no run has seen to them: it may have been killed"
    with alone(store(root) / f"{NAME}.lock"):
        assert triggers.watch(str(root)) == [], "a run is at work"
    assert run(root).name == "Declined"
    assert triggers.watch(str(root)) == [], "a run has seen to them"
    arrive(root, words("new", 20), "more.jsonl")
    assert triggers.watch(str(root)) == ["tsumugi.data.arrived"]


def looked(root: Path) -> list[tuple[str, str]]:
    return [(event, what) for event, what, _ in triggers.look(root, serving(root), NAME)]


def test_requests_unlike_the_training_data_are_a_drift_and_like_ones_are_none(root: Path) -> None:
    ask(root, "old", 130)
    assert looked(root) == []
    ask(root, "strange", 130)
    assert ("tsumugi.drift.seen", "v1.0.0 4") in looked(root)  # beside the decline, for it knows none of these words


def test_postgresql_is_looked_at_alike(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cluster() as server:
        monkeypatch.setenv("TSUMUGI_DATABASE", server.url)
        assert looked(root) == [], "there is no table yet"
        ask(root, "old", 130)
        assert looked(root) == []
        ask(root, "strange", 130)
        assert looked(root) == [("tsumugi.drift.seen", "v1.0.0 4"), ("tsumugi.model.declined", "v1.0.0 accepted")]
        with Traffic(server.url) as traffic:
            assert traffic.forget(NAME, time.time(), ["v1.0.0"]) == 0
            assert {row["input"] for row in traffic.requests(NAME)} == {None}
            assert traffic.forget(NAME, time.time(), ["v1.1.0"]) == 260


def test_a_fall_of_the_champions_outcomes_is_a_decline(root: Path) -> None:
    ask(root, "old", 120)  # all are accepted, for these words it knows
    assert looked(root) == []
    with Traffic(database(serving(root))) as traffic:
        for row in traffic.requests(NAME)[:60]:
            traffic.outcome(row["id"], "accepted", 0.0, time.time() + 1)
    assert looked(root) == [("tsumugi.model.declined", "v1.0.0 accepted")]


@pytest.mark.usefixtures("server")
def test_two_metrics_that_decline_are_told_once_each(root: Path) -> None:
    path = root / "continuous.yaml"
    accepted = "{name: accepted, kind: rate, better: higher, effect: 0.2, baseline: 0.5}"
    path.write_text(path.read_text().replace(accepted, f"{accepted}, {accepted.replace('accepted', 'liked')}"))
    ask(root, "old", 120)
    with Traffic(database(serving(root))) as traffic:
        for number, row in enumerate(traffic.requests(NAME)):
            traffic.outcome(row["id"], "liked", float(number < 60))
            if number < 60:
                traffic.outcome(row["id"], "accepted", 0.0, time.time() + 1)
    assert triggers.watch(str(root)) == ["tsumugi.model.declined"] * 2
    assert triggers.watch(str(root)) == []


@pytest.mark.usefixtures("server")
def test_what_is_broken_hides_nothing_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another model's pointer is damaged, its entry has another's, and the database of both is away."""
    path = root / "continuous.yaml"
    path.write_text(path.read_text().replace("text:\n  train", "alpha:\n  train", 1) + path.read_text())
    (serving(root) / "alpha.json").write_text("{")
    monkeypatch.setenv("TSUMUGI_DATABASE", f"sqlite:///{root}/nowhere/traffic.db")
    arrive(root, words("new", 20))
    assert triggers.watch(str(root)) == ["tsumugi.data.arrived"] * 2
    assert json.loads((store(root) / NAME / "told.json").read_text()), "and it is remembered"


@pytest.mark.usefixtures("server")
def test_a_worker_may_be_told_another_serving_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrive(root, words("new", 20))
    serving(root).rename(root / "elsewhere")
    assert triggers.watch(str(root)) == []
    monkeypatch.setenv("TSUMUGI_SERVING", str(root / "elsewhere"))
    assert triggers.watch(str(root)) == ["tsumugi.data.arrived"]


def test_old_traffic_of_versions_that_serve_no_more_is_forgotten(root: Path) -> None:
    path = root / "continuous.yaml"
    path.write_text(path.read_text().replace("  window: 60", "  window: 60\n  keep_days: 30"))
    days = 86400.0
    now = time.time()
    asked = {"user": "u", "name": NAME, "commit": "c", "role": "champion", "route": "/", "status": 200, "seconds": 0.1}
    with Traffic(database(serving(root))) as traffic:
        for version in ("v0.9.0", "v1.0.0"):
            for age in (40, 20):
                for judged in (False, True):
                    id = traffic.record(
                        **asked,
                        version=version,
                        time=now - age * days,
                        input={"input": ["word"]},
                        output={"labels": []},
                    )
                    traffic.outcome(id, "accepted", 1.0)
                    if judged:
                        traffic.feedback(id, 1)
        traffic.record(**asked | {"name": "other"}, version="v0.9.0", time=now - 40 * days)
        traffic.flush()
        triggers.forget(root, serving(root), NAME)
        left = {(row["version"], round((now - row["time"]) / days)): 0 for row in traffic.requests(NAME)}
        for row in traffic.requests(NAME):
            left[row["version"], round((now - row["time"]) / days)] += 1
        assert left == {("v0.9.0", 40): 1, ("v0.9.0", 20): 2, ("v1.0.0", 40): 2, ("v1.0.0", 20): 2}
        assert len(traffic.thumbs(NAME)) == 4 and all(row["input"] for row in traffic.thumbs(NAME))
        assert [row["input"] for row in traffic.requests(NAME)].count(None) == 1, (
            "the champion's old one is a figure only"
        )
        assert len(traffic.requests("other")) == 1
        with traffic.engine.connect() as connection:
            assert connection.scalar(select(func.count()).where(outcomes.c.metric == "accepted")) == 7


def test_texts_are_found_in_what_the_server_keeps_of_each_route() -> None:
    kept = [
        {"messages": [["system", "be kind"], ["user", "hello"], ["assistant", "hi"], ["user", "bye"]]},
        {"prompt": "once"}, {"input": ["a", "b"]}, {"text": "star"}, {"picture": {"sha256": "0"}}, None,
    ]  # fmt: skip
    assert [text for asked in kept for text in traffic_drift.said(asked)] == ["hello", "bye", "once", "a", "b", "star"]


@pytest.mark.slow
def test_an_event_becomes_a_run_with_its_payload(server: str) -> None:
    """prefect.yaml as it is shipped, on a real server; nobody works here, so that the run stays scheduled."""
    with servers.client(server) as client:
        register(client, ROOT)
        name = f"model-{os.getpid()}"  # other tests' events may still be on their way

        def found() -> list[dict[str, Any]]:
            return [run["parameters"] for run in _runs(client) if run["parameters"]["name"] == name]

        for event in ("tsumugi.drift.seen", "tsumugi.retraining.asked"):
            emit_event(event, resource(name), payload={"name": name, "window": 3})
        until(lambda: len(found()) == 2, 60)
        assert sorted(each["reason"] for each in found()) == ["tsumugi.drift.seen", "tsumugi.retraining.asked"]
        emit_event("tsumugi.retraining.ended", resource(name), payload={"name": name})
        schedules = {each["name"]: each["schedules"] for each in client.post("/deployments/filter", json={}).json()}
        assert schedules["watch"][0]["schedule"]["interval"] == 300
        assert schedules["weekly"][0]["schedule"]["cron"] == "0 4 * * 0"
        assert len(found()) == 2, "that one ended starts none"
        run = ask_for(client, name)  # as `tsumugi ct start` does
        assert run and run["parameters"] == {"name": name, "reason": "tsumugi.retraining.asked"}
        assert run["id"] in {each["id"] for each in _runs(client)} and len(found()) == 3


def _runs(client: httpx.Client) -> list[dict]:
    wanted = {"deployments": {"name": {"any_": ["continuous"]}}}
    return client.post("/flow_runs/filter", json=wanted).raise_for_status().json()
