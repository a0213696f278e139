"""The doctor, on things that are broken for real: each is found, named with its remedy, and nothing is left behind."""

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from flows import doctor
from flows.doctor import Finding
from flows.releases import registry, rollout
from tests.flows.released import NAME, contents, set_remote
from tests.flows.tools import commit, free_port, git, start


@pytest.fixture(autouse=True)
def _nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server, database or git author but the test's own."""
    for name in ("PREFECT_API_URL", "TSUMUGI_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(free_port()))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)


@pytest.fixture
def checkout(project: Path) -> Path:
    import jinja2

    (project / "requirements.lock").write_text(f"jinja2=={jinja2.__version__} \\\n    --hash=sha256:0\n")
    commit(project)
    return project


def findings(checkout: Path, patience: float = 60.0) -> dict[str, Finding]:
    """By area; the worst where there are several."""
    found = doctor.examine(checkout, checkout / ".store" / "serving", patience)
    return {each.area: each for each in sorted(found, key=lambda each: list(doctor.COLOURS).index(each.verdict))}


def test_a_sound_checkout_has_nothing_wrong(checkout: Path, tmp_path: Path) -> None:
    set_remote(checkout, url=str(tmp_path / "remote"))
    registry.register(checkout, NAME, "first")
    rollout.deploy(checkout, checkout / ".store" / "serving", NAME, "v1.0.0")
    found = findings(checkout)
    assert {area for area, each in found.items() if each.verdict == "wrong"} == set()
    assert found["remote"].verdict == found["serving"].verdict == found["packages"].verdict == "ok"
    assert found["serving"].said == "decoder: v1.0.0, every file as deployed"
    assert contents(tmp_path / "remote") == {}


def test_exit_status_and_json_are_for_programs(checkout: Path) -> None:
    from flows.cli_production import app

    arguments = ["doctor", "--json", "--repo", str(checkout), "--serving", str(checkout / ".store" / "serving")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0
    assert {"area", "verdict", "said", "remedy"} == set(json.loads(done.stdout)[0])
    (checkout / "requirements.lock").write_text("no-such-package==1.0\n")
    assert CliRunner().invoke(app, arguments).exit_code == 1
    assert "no-such-package" in CliRunner().invoke(app, [each for each in arguments if each != "--json"]).stdout


def test_packages_that_are_missing_or_others(checkout: Path) -> None:
    (checkout / "requirements.lock").write_text("jinja2==0.0.1 \\\n    --hash=sha256:0\nno-such-package==1.0\n")
    found = [each for each in doctor.examine(checkout, checkout / "serving") if each.area == "packages"]
    assert [each.verdict for each in found] == ["wrong", "warn"]
    assert "no-such-package" in found[0].said and "instead of 0.0.1" in found[1].said


def test_a_remote_that_cannot_be_written(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    set_remote(checkout, url=str(tmp_path / "file" / "remote"))
    found = findings(checkout)["remote"]
    assert (found.verdict, found.said.partition(": ")[0]) == (
        "wrong",
        f"store ({tmp_path}/file/remote) cannot be written",
    )


def test_a_port_that_another_program_has(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever).start()
        try:
            monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(other.server_port))
            found = findings(checkout)["prefect"]
        finally:
            other.shutdown()
    assert (found.verdict, found.said) == ("wrong", f"port {other.server_port} is taken by another program")
    assert findings(checkout)["prefect"].verdict == "warn"  # nobody is there any more


def test_a_server_that_never_answers_does_not_keep_the_others(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/api")
        found = findings(checkout, patience=5.0)
    assert (found["prefect"].verdict, found["prefect"].said) == ("wrong", "no answer within 5 s")
    assert found["voices"].verdict == "ok"


@pytest.mark.slow
def test_a_prefect_server_without_a_worker(checkout: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    found = findings(checkout)
    assert found["prefect"].said == f"a server answers at {server}"
    assert (found["worker"].verdict, found["worker"].remedy) == ("warn", "`make run` starts one")


@pytest.mark.parametrize("damage", ["pointer", "weights", "missing"])
def test_what_is_served_is_hashed(checkout: Path, damage: str) -> None:
    registry.register(checkout, NAME, "first")
    serving = checkout / ".store" / "serving"
    weights = rollout.deploy(checkout, serving, NAME, "v1.0.0").champion.folder / "model.safetensors"
    {
        "pointer": lambda: (serving / f"{NAME}.json").write_text('{"name": "deco'),
        "weights": lambda: weights.write_bytes(weights.read_bytes()[:-1] + b"x"),
        "missing": weights.unlink,
    }[damage]()
    found = findings(checkout)["serving"]
    assert found.verdict == "wrong" and found.remedy == "`tsumugi deploy decoder VERSION` brings its files again"
    assert str(serving / f"{NAME}.json" if damage == "pointer" else weights) in found.said


def test_a_database_that_is_away_and_its_password_is_not_shown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TSUMUGI_DATABASE", f"postgresql+psycopg://someone:secret@127.0.0.1:{free_port()}/traffic")
    found = findings(checkout)["database"]
    assert found.verdict == "wrong" and "someone:***@127.0.0.1" in found.said and "secret" not in str(found)


def test_a_database_file_that_is_none(checkout: Path) -> None:
    (checkout / ".store" / "serving").mkdir()
    (checkout / ".store" / "serving" / "traffic.db").write_text("text " * 1000)
    found = findings(checkout)["database"]
    assert found.verdict == "wrong" and "file is not a database" in found.said


def test_locks_of_processes_that_are_gone(checkout: Path) -> None:
    gone = start("-c", "")
    gone.communicate()
    assert not psutil.pid_exists(gone.pid)
    tmp = checkout / ".dvc" / "tmp"
    tmp.mkdir(exist_ok=True)
    (tmp / "rwlock").write_text(json.dumps({"data": {"read": [{"pid": gone.pid, "cmd": "dvc repro"}]}}))
    found = findings(checkout)["locks"]
    assert found.verdict == "warn" and str(gone.pid) in found.said
    (tmp / "rwlock").write_text("{")
    assert "is damaged" in findings(checkout)["locks"].said
    (tmp / "rwlock").unlink()
    (checkout / ".git" / "index.lock").touch()
    assert findings(checkout)["git"].remedy == "if no git runs here, remove it"


def test_nobody_to_tag_as(checkout: Path) -> None:
    git(checkout, "config", "--unset", "user.email")
    git(checkout, "config", "user.useConfigOnly", "true")
    found = findings(checkout)["git"]
    assert found.verdict == "wrong" and "git config user.name" in found.remedy


def test_a_driver_that_fails(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    found = findings(checkout)["gpu"]
    assert found.verdict == "warn" and "Driver/library version mismatch" in found.said
