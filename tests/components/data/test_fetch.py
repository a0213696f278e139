"""Downloads against a real server on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from components.data import fetch as module
from components.data.fetch import fetch
from components.data.files import SourceError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SUM = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT at any path but /none; at /broken the first answer breaks off, at /busy it is an error."""

    asked: list[tuple[str, str | None]] = []  # noqa: RUF012  # path and range of each request

    def do_GET(self) -> None:
        first = all(path != self.path for path, _ in self.asked)
        self.asked.append((self.path, self.headers["Range"]))
        if self.path == "/none" or (self.path == "/busy" and first):
            self.send_error(404 if self.path == "/none" else 503)
            return
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        if self.path == "/norange":
            start = 0
        elif start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = 2_000_000 if self.path == "/broken" and first else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(module, "WAIT", 0.01)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Handler.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def get(url: str, folder: Path, sha256: str = SUM) -> bytes:
    fetch(url, sha256, folder / "out" / "target", folder / "partial", lambda _: None)
    assert not (folder / "partial").exists()
    return (folder / "out" / "target").read_bytes()


@pytest.mark.parametrize("path", ["/file", "/broken", "/busy"])
def test_the_file_arrives(server: str, tmp_path: Path, path: str) -> None:
    assert get(server + path, tmp_path) == CONTENT
    expected = {"/file": [None], "/broken": [None, "bytes=2000000-"], "/busy": [None, None]}[path]
    assert [asked for _, asked in Handler.asked] == expected


@pytest.mark.parametrize("path", ["/file", "/norange"])
@pytest.mark.parametrize("have", [1_000_000, len(CONTENT)])
def test_an_earlier_part_is_continued(server: str, tmp_path: Path, path: str, have: int) -> None:
    (tmp_path / "partial").write_bytes(CONTENT[:have])
    assert get(server + path, tmp_path) == CONTENT
    assert Handler.asked[0][1] == f"bytes={have}-"


def test_another_file_is_refused_and_not_kept(server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"{SUM}, not {'0' * 64}"):
        get(server + "/file", tmp_path, "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_an_absent_file_is_not_asked_for_again(server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"/none: HTTP Error 404.*check the address"):
        get(server + "/none", tmp_path)
    assert len(Handler.asked) == 1


def test_no_server_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT", 0.0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(SourceError, match="Connection refused"):
        get("http://127.0.0.1:9/x", tmp_path)
