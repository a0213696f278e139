"""What calls for a retraining is seen, told once, and becomes a run with the event's payload as its parameters."""

import os
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.events import emit_event

from components.inference.traffic import Traffic
from components.inference.traffic_tables import database
from flows import server as servers
from flows.continuous import traffic_drift, triggers
from flows.continuous.notify import resource
from flows.continuous_training import alone, store
from flows.deployments import register
from tests.flows.circle import NAME, Users, serving, words
from tests.flows.test_continuous_training import arrive, run
from tests.flows.tools import until

ROOT = Path(__file__).parents[2]


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


def test_a_fall_of_the_champions_outcomes_is_a_decline(root: Path) -> None:
    ask(root, "old", 120)  # all are accepted, for these words it knows
    assert looked(root) == []
    with Traffic(database(serving(root))) as traffic:
        for row in traffic.requests(NAME)[:60]:
            traffic.outcome(row["id"], "accepted", 0.0, time.time() + 1)
    assert looked(root) == [("tsumugi.model.declined", "v1.0.0 accepted")]


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


def _runs(client: httpx.Client) -> list[dict]:
    wanted = {"deployments": {"name": {"any_": ["continuous"]}}}
    return client.post("/flow_runs/filter", json=wanted).raise_for_status().json()
