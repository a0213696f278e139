"""The tsumugi command as a person uses it: in a checkout of its own, with its own worker, against a real server."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from components.inference.traffic import Traffic
from flows import server as servers
from flows.cli import app, main
from tests.flows.tools import alive, commit, free_port, start, until

ROOT = Path(__file__).parents[2]
GRAPH = """\
stages:
  quick:
    cmd: echo quick > quick.out && mkdir -p reports/quick && cp figures.json reports/quick/metrics.json
    deps: [figures.json]
    meta: {phase: 1, group: core}
    outs: [quick.out]
    metrics: [reports/quick/metrics.json]
  slow:
    cmd: echo $$ > pid.out; echo slow begins; sleep ${slow.seconds} || exit 1; echo done > slow.out
    meta: {phase: 1, group: core}
    params: [slow]
    outs: [slow.out]
"""
CONTINUOUS = """\
text:
  train: learn.text
  source:
    {layout: jsonl, path: incoming, splits: {train: "*"}, fields: {text: text},
     held_out: {valid: {share: 0.1}, test: {share: 0.1}}}
  experiment: {primary: [{name: accepted, kind: rate, better: higher, effect: 0.2, baseline: 0.5}], most_users: 4000}
"""
FILES = {
    "dvc.yaml": GRAPH,
    "params.yaml": "slow:\n  seconds: 0  # of sleep\n",
    "presets/tiny.yaml": "# The whole graph, small\nslow: {seconds: 0.1}\n",
    "presets/bad.yaml": "slow: {secs: 1}\n",
    "presets/odd.yaml": "slow: {seconds: -1}\n",
    "figures.json": '{"accuracy": 0.75, "loss": 1}',
    ".gitignore": "*.out\n__pycache__/\n/runs/\n/reports\n.store\n",
    "flows/stages/__main__.py": "if '-1' in open('params.yaml').read(): exit('slow.seconds: -1: 0 or more')",
}


@pytest.fixture(scope="module")
def checkout(blank: Path, server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small project with this one's flows; what it starts is kept apart and stopped."""
    root = tmp_path_factory.mktemp("person") / "project"
    shutil.copytree(blank, root)
    shutil.copytree(ROOT / "flows", root / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "prefect.yaml", root)
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    commit(root)
    yield root
    call(root, "stop", server)


def environment(root: Path, server: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    own = {"PREFECT_HOME": str(root / ".store" / "prefect"), "COLUMNS": "200"}
    return kept | own | ({"PREFECT_API_URL": server} if server else {})


def call(root: Path, command: str, server: str, code: int = 0) -> str:
    """The output of `tsumugi COMMAND`, which has to exit with this code."""
    arguments = [sys.executable, "-m", "flows.cli", *command.split()]
    done = subprocess.run(
        arguments, cwd=root, env=environment(root, server), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def long_run(checkout: Path, server: str) -> Iterator[tuple["subprocess.Popen[str]", int, int]]:
    """`tsumugi run` in its slow stage; the process numbers of the worker and of the stage."""
    (checkout / "pid.out").unlink(missing_ok=True)
    with start("-m", "flows.cli", "run", cwd=checkout, **environment(checkout, server)) as process:
        try:
            stage = int(until(lambda: (checkout / "pid.out").exists() and (checkout / "pid.out").read_text(), 300))
            yield process, json.loads((checkout / ".store/prefect/worker.pid.json").read_text())["pid"], stage
        finally:
            process.kill()


def test_run_shows_its_page_its_stages_and_its_results_and_then_all_is_cached(checkout: Path, server: str) -> None:
    said = call(checkout, "run", server)
    assert re.search(rf"^Run [a-z-]+: {server.removesuffix('/api')}/runs/flow-run/[0-9a-f-]{{36}}$", said, re.M)
    assert re.search(r"^ Completed  quick  .* s$", said, re.M)
    assert re.search(r"^quick +accuracy +0\.750 *$", said, re.M)
    assert re.fullmatch(r"Completed in .* s: 2 Completed", said.splitlines()[-1])
    (checkout / "reports" / "report.html").touch()
    again = call(checkout, "run", server)
    assert re.fullmatch(r"Completed in .* s: 2 Cached", again.splitlines()[-1])
    assert f"Report: {checkout}/reports/report.html" in again


def test_a_preset_runs_in_a_clone(checkout: Path, server: str) -> None:
    said = call(checkout, "run --preset tiny", server)
    assert f"Workspace: {checkout}/runs/tiny" in said
    assert (checkout / "runs" / "tiny" / "slow.out").read_text() == "done\n"
    assert "seconds: 0.1 # of sleep" in (checkout / "runs" / "tiny" / "params.yaml").read_text()
    assert said.splitlines()[-1].endswith(": 1 Completed, 1 Restored"), "the other stage comes from the shared cache"


def test_a_failed_stage_is_named_with_its_last_lines(checkout: Path, server: str) -> None:
    (checkout / "params.yaml").write_text("slow: {seconds: many}\n")
    said = call(checkout, "run", server, code=1)
    assert re.search(r"^Failed: slow: exit status 1", said, re.M)
    assert "    slow begins\n" in said
    assert "invalid time interval" in said
    assert "Traceback" not in said
    assert re.fullmatch(r"Failed in .* s: .*1 Failed.*", said.splitlines()[-1])


def test_ctrl_c_cancels_the_run_and_ends_its_stage(checkout: Path, server: str) -> None:
    (checkout / "params.yaml").write_text("slow: {seconds: 600}\n")
    with long_run(checkout, server) as (process, _worker, stage):
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Cancelling the run" in said
    assert re.fullmatch(r"Cancelled in .*", said.splitlines()[-1])
    until(lambda: not alive([stage]))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run --preset tinny", "unknown preset 'tinny' (did you mean tiny?): known are bad, odd, tiny"),
        ("run --preset bad", "bad.yaml: unknown key slow.secs (did you mean seconds?): params.yaml has seconds"),
        ("run --preset odd", "slow.seconds: -1: 0 or more"),
        ("run --data no/such/folder", "DATA=no/such/folder is not a folder: give the one that holds the sets"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    checkout: Path, command: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flows.cli.ROOT", checkout)
    monkeypatch.setattr("sys.argv", ["tsumugi", *command.split()])
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(SystemExit, match="^2$"):
        main()
    assert capsys.readouterr().err == f"tsumugi: {said}\n"


def test_presets_are_listed_and_made_for_work_by_hand(checkout: Path, server: str) -> None:
    assert "tiny        The whole graph, small\n" in call(checkout, "preset", server)
    assert f"Workspace: {checkout}/runs/tiny" in call(checkout, "preset tiny", server)


def test_status_shows_runs_and_schedules_and_stop_ends_the_own_worker_only(checkout: Path, server: str) -> None:
    said = call(checkout, "status", server)
    assert re.search(r"^[a-z-]+ +run +Cancelled", said, re.M)
    assert re.search(r"^[a-z-]+ +daily +Scheduled +\d{4}-\d\d-\d\d 03:00", said, re.M)
    worker = json.loads((checkout / ".store" / "prefect" / "worker.pid.json").read_text())["pid"]
    assert call(checkout, "stop", server) == f"Stopped the worker (process {worker})\n"
    assert not psutil.pid_exists(worker)
    assert call(checkout, "stop", server) == "Nothing that was started here runs\n"
    assert "none started here" in call(checkout, "status", server), "the server still answers"


def test_help_says_what_each_command_does() -> None:
    for command in ("run", "stop", "status", "preset", "serve", "up", "key", "experiment", "register", "deploy"):
        assert command in CliRunner().invoke(app, ["--help"]).output
        assert "Usage" in CliRunner().invoke(app, [command, "--help"]).output


@pytest.mark.parametrize("page", ["README.md", "README.ja.md", "docs/production.md"])
def test_what_the_pages_have_people_type_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    typed = re.findall(r"^tsumugi (.*)$", text, re.M) + re.findall(r"`tsumugi ([^`]+)`", text)
    assert typed
    for line in typed:
        words, command = shlex.split(line, comments=True), typer.main.get_command(app)
        while isinstance(command, TyperGroup) and not words[0].startswith("-"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("-")} <= known, line


@pytest.fixture
def deployed(checkout: Path, tmp_path: Path) -> Iterator[Path]:
    """The checkout, whose serving folder has a small model."""
    from benchmarks.models import classifier, deploy, version

    serving = checkout / ".store" / "serving"
    deploy(serving, "text", version(classifier(tmp_path / "model")))
    yield checkout
    shutil.rmtree(serving)


def test_status_needs_no_prefect_server(deployed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_HOME", str(deployed / ".store" / "nobody"))
    monkeypatch.setenv("TSUMUGI_SERVING", str(deployed / ".store" / "serving"))
    shown = CliRunner().invoke(app, ["status"])
    assert shown.exit_code == 0, shown.output
    assert re.search(r"^text +v1\.0\.0 ", shown.stdout, re.M)
    assert "no Prefect server answers at http://127.0.0.1:9/api: `make run` starts one" in shown.stdout


@pytest.mark.slow
def test_up_starts_the_models_server_once_and_status_knows_it(deployed: Path, server: str) -> None:
    port, serving = free_port(), deployed / ".store" / "serving"
    options = f"--port {port} --slots 2 --rate 50"
    said = call(deployed, f"up {options}", server)
    assert said.splitlines()[-2:] == [f"flows   {server.removesuffix('/api')}", f"models  http://127.0.0.1:{port}"]
    until(lambda: httpx.get(f"http://127.0.0.1:{port}/readyz").is_success, 120)
    assert "starting at" not in call(deployed, f"up {options}", server)
    refused = call(deployed, f"up {options} --keys keys.json", server, code=2)
    assert refused.startswith("tsumugi: the models' server runs otherwise (") and "`tsumugi stop` first" in refused
    assert re.search(r"^text +v1\.0\.0 +v1\.0\.0 *$", call(deployed, "status", server), re.M)
    other = call(
        deployed, f"up {options} --serving {shutil.copytree(serving, deployed / '.store' / 'other')}", server, code=2
    )
    assert other.endswith(f"the worker that runs looks after {serving}: `tsumugi stop` first\n")
    assert "Stopped the serving (process " in call(deployed, "stop", server)
    assert re.search(r"^text +v1\.0\.0 +nobody *$", call(deployed, "status", server), re.M)


def test_serve_answers_until_it_is_told_to_end(deployed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no model is deployed" in call(deployed, f"serve --serving {tmp_path}/empty", "", code=2)
    key = call(deployed, f"key {tmp_path}/keys.json me", "").strip()
    options = ("--port", "0", "--keys", tmp_path / "keys.json", "--threads", "1")
    with start("-m", "flows.cli", "serve", *options, cwd=deployed, **environment(deployed, "")) as process:
        try:
            url = next(found[0] for line in process.stdout or () if (found := re.search(r"http://\S+", line)))
            until(lambda: httpx.get(f"{url}/readyz").is_success, 120)
            body = {"model": "text", "input": "a small red circle"}
            assert httpx.post(f"{url}/v1/classify", json=body).status_code == 401
            answer = httpx.post(f"{url}/v1/classify", json=body, headers={"authorization": f"Bearer {key}"})
            assert answer.status_code == 200 and answer.headers["x-tsumugi-version"] == "v1.0.0"
            process.terminate()
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0


def test_ct_starts_a_retraining_and_tells_of_those_that_were(checkout: Path, server: str) -> None:
    (checkout / "continuous.yaml").write_text(CONTINUOUS)
    assert "no model 'tex': did you mean text?" in call(checkout, "ct start tex", server, code=2)
    call(checkout, "ct start text", server)
    wanted = {"deployments": {"name": {"any_": ["continuous"]}}}
    with servers.client(server) as client:
        (run,) = until(lambda: client.post("/flow_runs/filter", json=wanted).raise_for_status().json())
    assert run["parameters"]["name"] == "text"
    outcome = {"name": "text", "key": "0123", "outcome": "Declined", "reasons": ["not better"]}
    (checkout / ".store" / "continuous" / "text").mkdir(parents=True, exist_ok=True)
    (checkout / ".store" / "continuous" / "text" / "0123.json").write_text(json.dumps(outcome))
    assert re.search(r"^text +0123 +Declined +not better *$", call(checkout, "ct outcomes", server), re.M)
    (checkout / ".store" / "serving").mkdir(exist_ok=True)
    with Traffic(f"sqlite:///{checkout}/.store/serving/traffic.db") as traffic:
        about = {"user": "u", "name": "text", "version": "v1.0.0", "commit": "c" * 40, "role": "champion"}
        for answer, thumb in (("yes", 1), ("no", -1)):
            asked = {"input": {"prompt": "why"}, "output": {"text": answer}}
            traffic.feedback(traffic.record(**about, **asked, route="/", status=200, seconds=0.1), thumb)
    said = call(checkout, f"ct thumbs text {checkout}/.store/thumbs", server)
    assert said.startswith("1 pairs and 2 judged answers in ")
    pair = json.loads((checkout / ".store" / "thumbs" / "pairs.jsonl").read_text())
    assert pair == {"prompt": "why", "chosen": "yes", "rejected": "no"}


@pytest.mark.slow
def test_a_run_whose_worker_and_flow_are_killed_is_crashed_within_three_minutes(checkout: Path, server: str) -> None:
    (checkout / "params.yaml").write_text("slow: {seconds: 601}\n")
    with long_run(checkout, server) as (process, worker, stage):
        (flow,) = psutil.Process(worker).children()
        for pid in (worker, flow.pid):
            os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        until(lambda: not alive([stage]), 30)
        said, _ = process.communicate(timeout=240)
    assert time.monotonic() - killed < 180
    assert process.returncode == 1
    assert "Crashed: the run: no heartbeat for 90 s" in said


@pytest.mark.slow
def test_a_run_whose_worker_is_killed_ends_itself_and_its_stage(checkout: Path, server: str) -> None:
    (checkout / "params.yaml").write_text("slow: {seconds: 602}\n")
    with long_run(checkout, server) as (process, worker, stage):
        os.kill(worker, signal.SIGKILL)
        until(lambda: not alive([stage]), 60)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert re.search("^Crashed: the run: .*the worker that started this run is gone", said, re.M)


@pytest.mark.slow
def test_a_schedule_fires_by_itself_in_a_fresh_clone_and_completes(checkout: Path, server: str) -> None:
    (checkout / "params.yaml").write_text(FILES["params.yaml"])
    deployments = (ROOT / "prefect.yaml").read_text()
    (checkout / "prefect.yaml").write_text(deployments.replace('cron: "0 3 * * *", timezone: UTC', "interval: 20"))
    try:
        call(checkout, "run", server)
        until(lambda: re.search(r"^[a-z-]+ +daily +Completed", call(checkout, "status", server), re.M), 240)
        assert [(clone / "slow.out").read_text() for clone in (checkout / "runs" / "fresh").iterdir()] == ["done\n"]
    finally:
        (checkout / "prefect.yaml").write_text(deployments)  # no run every 20 s from here on
        call(checkout, "run", server)
        call(checkout, "stop", server)


@pytest.mark.slow
def test_all_that_run_started_is_gone_after_stop(checkout: Path) -> None:
    port = free_port()
    said = call(checkout, f"run --port {port}", server="")
    assert f"Prefect server: starting at http://127.0.0.1:{port}" in said
    assert said.splitlines()[-1].startswith("Completed in")
    home = checkout / ".store" / "prefect"
    pids = [json.loads((home / f"{name}.pid.json").read_text())["pid"] for name in ("server", "worker")]
    below = [child.pid for pid in pids for child in psutil.Process(pid).children(recursive=True)]
    assert len(call(checkout, "stop", server="").splitlines()) == 2
    assert alive(pids + below) == []
    with socket.create_server(("127.0.0.1", port)):
        pass
    assert not list(home.glob("*.pid.json"))


@pytest.mark.slow
def test_what_ran_when_the_server_went_away_does_not_block_the_next_run(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_SERVER_API_PORT", str(free_port()))
    (checkout / "params.yaml").write_text("slow: {seconds: 603}\n")
    with long_run(checkout, "") as (_, _, stage):
        said = call(checkout, "stop", server="")
        assert re.search(r"^Cancelled run [a-z-]+$", said, re.M)
        until(lambda: alive([stage]) == [], 30)
    with long_run(checkout, "") as (_, worker, stage):
        server = json.loads((checkout / ".store/prefect/server.pid.json").read_text())["pid"]
        for pid in (server, worker):
            os.killpg(pid, signal.SIGKILL)
        until(lambda: alive([stage]) == [], 60)
    (checkout / "params.yaml").write_text("slow: {seconds: 0}\n")
    said = call(checkout, "run", server="")
    assert re.search(r"^Run [a-z-]+ of an earlier start had lost its process: marked Crashed$", said, re.M)
    assert said.splitlines()[-1].startswith("Completed in")
    call(checkout, "stop", server="")
