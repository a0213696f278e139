"""Versions on trial: canaries, shadows, and what becomes of the champion's answers when they fail."""

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.models import decoder, deploy, version
from components.inference import pointer
from components.inference.experiment.assignment import assign
from components.inference.server.desk import Ask
from components.inference.server.settings import Limits, Settings
from tests.components.inference.server.small import challenger, embed, serve, serving, until


@pytest.fixture
def server(changing: Any) -> Any:
    return changing


def test_a_canary_answers_its_share_of_the_users_and_is_promoted_without_loading_again(
    server: Any, versions: list[pointer.Version]
) -> None:
    deploy(server.serving, "search", versions[0], 2, challenger(versions[1], 0.4, "canary"))
    until(lambda: serving(server)["serving"]["search"].get("challenger"))
    for i in range(40):
        answer = embed(server.url, "red", user=f"u{i}")
        user = Ask("", "127.0.0.1", 0.0, 0.0).user(f"u{i}")
        role = assign(user, "e1", 0.4)
        assert answer.headers["x-tsumugi-version"] == {"champion": "v1", "challenger": "v2"}[role]
        server.traffic.flush()
        row = server.traffic.request(answer.headers["x-request-id"])
        assert (row["role"], row["experiment"], row["user"]) == (role, "e1", user)
    trial = server.fleet.slots["search"].challenger
    deploy(server.serving, "search", versions[1], 3)
    until(lambda: serving(server)["serving"]["search"]["champion"] == "v2")
    assert server.fleet.slots["search"].champion is trial


def test_where_a_canary_breaks_the_champion_answers(server: Any, versions: list[pointer.Version]) -> None:
    deploy(server.serving, "search", versions[0], 2, challenger(versions[1], 1.0, "canary"))
    until(lambda: serving(server)["serving"]["search"].get("challenger"))

    def breaks(texts: list[str]) -> list[Any]:
        raise RuntimeError("out of order")

    server.fleet.slots["search"].challenger.runner.texts.work = breaks
    answer = embed(server.url, "red")
    assert answer.status_code == 200 and answer.headers["x-tsumugi-version"] == "v1"
    server.traffic.flush()
    rows = server.traffic.requests("search")
    assert [(row["role"], row["status"], row["experiment"]) for row in rows] == [
        ("challenger", 500, "e1"),
        ("champion", 200, None),
    ] or [(row["role"], row["status"]) for row in rows] == [("champion", 200), ("challenger", 500)]
    assert server.traffic.outcomes("e1", "failed")["challenger"].values.tolist() == [1.0]


def test_a_shadow_computes_the_same_after_the_answer_and_never_delays_it(
    server: Any, versions: list[pointer.Version]
) -> None:
    deploy(server.serving, "search", versions[0], 2, challenger(versions[1], 1.0, "shadow"))
    until(lambda: serving(server)["serving"]["search"].get("challenger"))
    held, shadow = threading.Event(), server.fleet.slots["search"].challenger.runner
    work = shadow.texts.work

    def slow(texts: list[str]) -> list[Any]:
        assert held.wait(30)
        return work(texts)

    shadow.texts.work = slow
    answers = [embed(server.url, f"red {i}") for i in range(6)]  # all come, though no shadow has ended
    assert {answer.headers["x-tsumugi-version"] for answer in answers} == {"v1"}
    held.set()

    def copies() -> Any:
        server.traffic.flush()
        some = [row for row in server.traffic.requests("search") if row["role"] == "shadow"]
        return some if len(some) == 4 else None  # Settings.shadows at once; the others are left out

    ids = [answer.headers["x-request-id"] for answer in answers]
    for row in until(copies):
        assert row["version"] == "v2" and row["experiment"] == "e1" and row["status"] == 200
        original = server.traffic.request(row["output"]["shadow_of"])
        assert original["id"] in ids and original["input"] == row["input"]


def test_a_shadow_has_a_clock_and_a_deadline_of_its_own(tmp_path: Path, unlimited: Limits) -> None:
    """The answer takes a while, and its deadline passes while the shadow is at work."""
    first, second = (version(decoder(tmp_path / f"v{i}", seed=i), f"v{i}") for i in (1, 2))
    deploy(tmp_path / "serving", "decoder", first, trial=challenger(second, 1.0, "shadow"))
    with serve(Settings(tmp_path / "serving", limits=unlimited)) as server:
        slot = server.fleet.slots["decoder"]

        def slow_down(deployment: Any, seconds: float) -> None:
            start = deployment.runner.start

            async def late(*given: Any) -> Any:
                await asyncio.sleep(seconds)
                return await start(*given)

            deployment.runner.start = late

        slow_down(slot.champion, 0.5)
        slow_down(slot.challenger, 2.0)
        body = {"model": "decoder", "prompt": "a", "max_tokens": 2}
        answer = httpx.post(server.url + "/v1/completions", json=body, headers={"x-request-timeout": "2"})
        assert answer.status_code == 200
        [row] = until(lambda: [row for row in server.traffic.requests("decoder") if row["role"] == "shadow"])
        assert row["status"] == 200
        told = httpx.get(server.url + "/metrics").text
        series = r'tsumugi_first_token_seconds_sum\{name="decoder",version="v2"\} (\S+)'
        assert float(re.search(series, told)[1]) <= row["seconds"]  # which begins after the answer has left
