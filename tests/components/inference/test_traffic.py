"""Traffic on SQLite and on a real PostgreSQL of the test's own, which is also stopped and started under it."""

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from components.inference import traffic as traffic_module
from components.inference.traffic import Traffic
from components.inference.traffic_tables import database
from tests.components.inference.postgres import Postgres, cluster


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with cluster() as postgres:
        yield postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def traffic(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Traffic]:
    url = f"sqlite:///{tmp_path / 'traffic.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").url
    with Traffic(url) as traffic:
        yield traffic


def note(traffic: Traffic, name: str, **fields: Any) -> str:
    start = {"user": "u1", "version": "v1", "commit": "c" * 40, "role": "champion", "route": "/v1/x"}
    return traffic.record(**start | {"name": name, "status": 200, "seconds": 0.5} | fields)


@pytest.fixture
def name() -> str:
    """Of a model, so that tests share a database."""
    return f"m{uuid.uuid4().hex[:8]}"


def test_what_is_noted_is_read_back(traffic: Traffic, name: str) -> None:
    given = {"messages": [{"role": "user", "content": '赤 "\x00" \ud800'}], "none": None, "share": 0.1}
    first = note(traffic, name, input=given, output=[1, 2.5], tokens=7, time=100.25, experiment="e")
    second = note(traffic, name, id=str(uuid.uuid4()), time=200.0, status=429, role="shadow")
    note(traffic, "another", time=150.0)
    assert traffic.knows(first)
    traffic.flush()
    rows = traffic.requests(name)
    assert [row["id"] for row in rows] == [first, second]
    assert rows[0] | {"time": 0} == {
        "id": first, "time": 0, "user": "u1", "name": name, "version": "v1", "commit": "c" * 40, "role": "champion",
        "experiment": "e", "route": "/v1/x", "status": 200, "seconds": 0.5, "tokens": 7, "input": given,
        "output": [1, 2.5],
    }  # fmt: skip
    assert rows[0]["time"] == 100.25
    assert [row["id"] for row in traffic.requests(name, since=100.25, until=200.0)] == [first]
    assert [row["id"] for row in traffic.requests(name, limit=1)] == [second]
    assert traffic.request(first) == rows[0]
    assert traffic.knows(second) and not traffic.knows(str(uuid.uuid4()))


def test_outcomes_come_per_arm_in_order_of_time(traffic: Traffic, name: str) -> None:
    experiment = f"e-{name}"
    for i in range(6):
        role = ("champion", "challenger")[i % 2]
        fields = {"experiment": experiment, "role": role, "user": f"u{i}", "time": float(i)}
        id = note(traffic, name, **fields, status=200 if i < 4 else 503, seconds=i / 4)
        traffic.outcome(id, "value", 10.0 * i, time=100.0 - i)
        traffic.outcome(id, "other", 1.0)
    note(traffic, name, experiment="another", status=503)
    traffic.flush()
    arms = traffic.outcomes(experiment, "value")
    assert {role: arm.values.tolist() for role, arm in arms.items()} == {
        "challenger": [50.0, 30.0, 10.0],
        "champion": [40.0, 20.0, 0.0],
    }
    assert arms["champion"].users.tolist() == ["u4", "u2", "u0"]
    assert arms["champion"].times.tolist() == [96.0, 98.0, 100.0]
    assert traffic.outcomes(experiment, "seconds")["challenger"].values.tolist() == [0.25, 0.75]
    assert traffic.outcomes(experiment, "failed")["champion"].values.tolist() == [0.0, 0.0, 1.0]
    assert traffic.outcomes(experiment, "unknown") == {}


def test_the_last_thumb_of_an_answer_counts(traffic: Traffic, name: str) -> None:
    first, second = note(traffic, name, experiment=name, input="a"), note(traffic, name, experiment=name)
    traffic.feedback(first, 1, time=1.0)
    traffic.feedback(second, 1, time=2.0)
    traffic.feedback(first, -1, "no \x00 word \ud800 of it", time=3.0)
    with pytest.raises(ValueError, match="thumb 2 is neither"):
        traffic.feedback(first, 2)
    traffic.flush()
    thumbs = traffic.thumbs(name)
    assert [(row["id"], row["thumb"], row["comment"]) for row in thumbs] == [
        (second, 1, ""),
        (first, -1, "no  word ? of it"),
    ]
    assert thumbs[1]["input"] == "a"
    assert [row["id"] for row in traffic.thumbs(name, since=3.0)] == [first]
    assert traffic.outcomes(name, "thumb")["champion"].values.tolist() == [1.0, 1.0, -1.0]


def test_experiments_are_added_changed_and_found(traffic: Traffic, name: str) -> None:
    traffic.add_experiment(name, name, "v1", "v2", {"share": 0.1})
    with pytest.raises(IntegrityError):
        traffic.add_experiment(name, name, "v1", "v2")
    traffic.change_experiment(name, state="running", started=5.0)
    traffic.change_experiment(name, verdict={"promote": True})
    assert traffic.experiments(name, "running") == [
        {
            "id": name, "name": name, "champion": "v1", "challenger": "v2", "state": "running",
            "config": {"share": 0.1}, "verdict": {"promote": True}, "started": 5.0, "ended": None,
        }
    ]  # fmt: skip
    assert traffic.experiments(name, "ended") == []
    with pytest.raises(KeyError):
        traffic.change_experiment("none", state="ended")


def test_a_row_that_is_refused_takes_no_other_with_it(traffic: Traffic, name: str) -> None:
    note(traffic, name)
    note(traffic, name, output=object())
    with pytest.raises(ValueError, match="hexadecimal"):
        note(traffic, name, id="no uuid")
    note(traffic, name)
    traffic.flush()
    assert len(traffic.requests(name)) == 2
    assert traffic.dropped == 1


def test_two_processes_may_make_the_tables_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'traffic.db'}"
    some = [Traffic(url) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda each: each.requests("x"), some)) == [[]] * 8
    for each in some:
        each.close()


def test_rows_wait_while_the_database_is_away(postgres: Postgres, name: str) -> None:
    """Killed as by a power cut in the middle of the writing: what was noted before, meanwhile and after is there."""
    with Traffic(postgres.url) as traffic:
        ids = [note(traffic, name, time=float(i)) for i in range(50)]
        traffic.flush()
        postgres.stop()
        try:
            ids += [note(traffic, name, time=float(50 + i)) for i in range(50)]
            with pytest.raises(OperationalError):
                traffic.requests(name)
        finally:
            postgres.start()
        ids += [note(traffic, name, time=float(100 + i)) for i in range(50)]
        traffic.flush()
        assert [row["id"] for row in traffic.requests(name)] == ids
        assert traffic.dropped == 0


def test_a_full_queue_counts_what_it_drops(postgres: Postgres, name: str) -> None:
    traffic = Traffic(postgres.url, waiting=5)
    postgres.stop()
    try:
        note(traffic, name)
        while not traffic._rows.empty():  # until the writer holds the first
            time.sleep(0.01)
        for _ in range(10):
            note(traffic, name)
        assert traffic.dropped == 5
        traffic.close(seconds=0.1)
        assert traffic.dropped == 5 + 1 + 5  # what did not fit, what the writer held, what waited
    finally:
        postgres.start()


def test_long_texts_that_wait_are_bounded(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database's folder is missing, 1,000 characters may wait; once it is there, there is room again."""
    monkeypatch.setattr(traffic_module, "CHARACTERS", 1000)
    with Traffic(f"sqlite:///{tmp_path / 'mounted' / 'traffic.db'}") as traffic:
        for letter, count in (("a", 600), ("b", 600), ("c", 100)):
            note(traffic, name, input=letter * count)
        assert traffic.dropped == 1
        (tmp_path / "mounted").mkdir()
        traffic.flush()
        note(traffic, name, input="d" * 900)
        traffic.flush()
        assert [row["input"][0] for row in traffic.requests(name)] == ["a", "c", "d"]
        assert traffic.dropped == 1


def test_the_database_is_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSUMUGI_DATABASE", raising=False)
    assert database(tmp_path) == f"sqlite:///{tmp_path}/traffic.db"
    monkeypatch.setenv("TSUMUGI_DATABASE", "postgresql+psycopg://x@y/z")
    assert database(tmp_path) == "postgresql+psycopg://x@y/z"
