"""What fails beside the server: its database away, restarted, or on a full disk. It serves on, and no row is lost."""

import resource
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from components.inference.server.settings import Limits, Settings
from tests.components.inference.postgres import cluster
from tests.components.inference.server.small import serve


class Database(NamedTuple):
    url: str
    leave: Callable[[], object]
    come: Callable[[], object]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """PostgreSQL, killed in the middle; SQLite in a folder that is not there yet."""
    if request.param == "postgresql":
        with cluster() as postgres:
            yield Database(postgres.url, postgres.stop, postgres.start)
    else:
        folder = tmp_path / "mounted"
        yield Database(f"sqlite:///{folder / 'traffic.db'}", lambda: None, folder.mkdir)


def classify(server: Any, text: str = "red") -> str:
    """The id of an answer."""
    answer = httpx.post(server.url + "/v1/classify", json={"model": "classifier", "input": text})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


def thumb(server: Any, id: str) -> httpx.Response:
    return httpx.post(server.url + "/v1/feedback", json={"id": id, "thumb": 1}, timeout=60)


def test_without_its_database_the_server_serves_on_and_writes_all_down_later(
    small: Path, database: Database, unlimited: Limits
) -> None:
    with serve(Settings(small / "serving", database=database.url, limits=unlimited)) as server:
        ids = [classify(server)]
        database.leave()
        try:
            ids += [classify(server) for _ in range(5)]
            assert thumb(server, ids[-1]).status_code == 200  # of an answer that waits to be written down
            unknown = thumb(server, str(uuid.uuid4()))
            assert unknown.status_code == 503 and unknown.json()["error"]["code"] == "unavailable"
            assert int(unknown.headers["retry-after"]) >= 1
            assert httpx.get(server.url + "/readyz").is_success
        finally:
            database.come()
        ids.append(classify(server))
        server.traffic.flush()
        assert [row["id"] for row in server.traffic.requests("classifier")] == ids
        assert [row["id"] for row in server.traffic.thumbs("classifier")] == [ids[5]]
        assert server.traffic.dropped == 0
        assert thumb(server, str(uuid.uuid4())).status_code == 404


@contextmanager
def no_file_larger(size: int) -> Iterator[None]:
    """As on a full disk, a write past so many bytes fails in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_the_server_serves_on_and_writes_all_down_later(
    small: Path, tmp_path: Path, unlimited: Limits, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path / 'traffic.db'}"
    with serve(Settings(small / "serving", database=url, limits=unlimited)) as server:
        ids = [classify(server)]
        server.traffic.flush()
        with no_file_larger((tmp_path / "traffic.db-wal").stat().st_size):
            ids += [classify(server, "red " * 1000) for _ in range(20)]
            while "traffic waits for its database" not in caplog.text:
                ids.append(classify(server))
            assert thumb(server, ids[0]).status_code == 200
            assert [row["id"] for row in server.traffic.requests("classifier")] == ids[:1]
        server.traffic.flush()
        assert [row["id"] for row in server.traffic.requests("classifier")] == ids
        assert server.traffic.dropped == 0
