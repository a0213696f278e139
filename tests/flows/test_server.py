"""What is found is used, what is started is stopped, and nothing else is."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from flows import processes
from flows import server as servers
from flows.processes import Started, Unavailable
from tests.flows.tools import start


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No server known, and an empty place for what is started."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("PREFECT_SERVER_API_PORT", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def sleeper(home: Path, name: str = "worker", code: str = "pass") -> Started:
    """A process that stands for a server or worker, with its pid file."""
    command = [sys.executable, "-c", f"import signal, time; {code}; print(flush=True); time.sleep(600)"]
    ready, output = os.pipe()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, output, 1)], setsid=True)
    os.close(output)
    assert os.read(ready, 1), "it ended early"
    os.close(ready)
    own = Started(name, pid, psutil.Process(pid).create_time(), "http://127.0.0.1:1/api")
    (home / f"{name}.pid.json").write_text(json.dumps(asdict(own)))
    return own


@pytest.mark.usefixtures("home")
def test_an_answering_server_is_used(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    assert servers.ensure_server() == server
    monkeypatch.delenv("PREFECT_API_URL")
    assert servers.ensure_server(int(server.split(":")[2].removesuffix("/api"))) == server
    assert os.environ["PREFECT_API_URL"] == server
    assert processes.stop("server") is None, "it was not started here"
    assert servers.answers(server)


def test_silent_runs_are_crashed_by_one_automation(server: str) -> None:
    with servers.client(server) as client:
        servers.create_automation(client)
        servers.create_automation(client)
        known = client.post("/automations/filter", json={}).json()
    assert [automation["name"] for automation in known].count("crash-silent-runs") == 1


@pytest.mark.usefixtures("home")
def test_an_address_that_does_not_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(Unavailable, match=r"^PREFECT_API_URL=http://127\.0\.0\.1:9/api does not answer: start .*$"):
        servers.ensure_server()


class Foreign(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>true</html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_port_of_another_program_is_refused(home: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), Foreign) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(Unavailable, match=rf"^port {other.server_port} is in use by another program: .*PORT=4300"):
            servers.ensure_server(other.server_port)
        other.shutdown()
    assert not list(home.glob("*.pid.json"))


def test_a_second_server_of_one_checkout_is_refused(home: Path) -> None:
    own = sleeper(home, "server")
    try:
        with pytest.raises(Unavailable, match="this checkout's server runs at .*make stop"):
            servers.ensure_server(4399)
        assert servers.address() == own.url
    finally:
        processes.stop("server")


def test_stop_ends_what_was_started_here(home: Path) -> None:
    own = sleeper(home)
    assert processes.started("worker") == own
    assert processes.stop("worker") == own
    assert not own.alive()
    assert processes.stop("worker") is None


def test_stop_spares_a_process_that_took_over_the_number(home: Path) -> None:
    own = sleeper(home)
    try:
        (home / "worker.pid.json").write_text(json.dumps(asdict(replace(own, born=own.born - 60))))
        assert processes.started("worker") is None
        assert processes.stop("worker") is None
        assert own.alive()
    finally:
        os.kill(own.pid, signal.SIGKILL)
        os.waitpid(own.pid, 0)


def test_a_models_server_that_was_started_otherwise_is_not_taken_for_the_wanted_one(home: Path) -> None:
    own = sleeper(home, "serving")
    given = psutil.Process(own.pid).cmdline()[2:]
    try:
        with pytest.raises(Unavailable, match="the models' server runs otherwise .*`tsumugi stop` first"):
            processes.ensure_serving([*given, "--keys", "keys.json"], "127.0.0.1", 1, print)
        assert processes.ensure_serving(given, "127.0.0.1", 1, print) == own
    finally:
        processes.stop("serving")


def test_one_lock_lets_one_in_and_is_waited_for_or_not(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = "from pathlib import Path; from flows.processes import alone; print('here', flush=True)\n"
    code += f"with alone(Path({str(lock)!r})): print('in')"
    with processes.alone(lock) as first:
        with processes.alone(lock, wait=False) as second:
            assert (first, second) == (True, False)
        waiting = start("-c", code)
        assert waiting.stdout and waiting.stdout.readline() == "here\n"
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(0.5)
    assert waiting.communicate(timeout=60)[0] == "in\n"


def test_stop_kills_what_does_not_listen(home: Path) -> None:
    own = sleeper(home, code="signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    assert processes.stop("worker", patience=0.2) == own
    assert not own.alive()


@pytest.mark.usefixtures("home")
def test_a_server_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_KEEPALIVE_TIMEOUT", "soon")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match="the Prefect server ended while starting: .*log: "):
        servers.ensure_server(port, [].append)
    assert processes.stop("server") is None


class Locked(BaseHTTPRequestHandler):
    """Says 503 twice, then what it was sent."""

    answers: ClassVar = [503, 503, 200]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.answers.pop(0))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_locked_database_is_asked_again() -> None:
    with HTTPServer(("127.0.0.1", 0), Locked) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        with servers.client(f"http://127.0.0.1:{busy.server_port}/api") as client:
            assert client.post("/x", json={"kept": 1}).raise_for_status().json() == {"kept": 1}
        busy.shutdown()
    assert Locked.answers == []
