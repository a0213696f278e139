"""The server as a process: it starts by its command, serves, and ends on SIGTERM without losing an answer."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from benchmarks.models import decoder, deploy, version
from flows.stages.serving import is_loopback, main
from tests.components.inference.server.small import until

ROOT = Path(__file__).parents[3]


@contextmanager
def process(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The server, and its address once it is ready."""
    command = [sys.executable, "-m", "flows.stages.serving", "--port", "0", *map(str, arguments)]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = re.search(r"http://\S+", server.stdout.readline())
        assert url
        until(lambda: httpx.get(url[0] + "/readyz").is_success, 120.0)
        yield server, url[0]
    finally:
        server.kill()
        server.communicate()


def test_it_serves_with_keys_and_ends_in_good_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stream that runs when the signal comes is answered to its end, and written down."""
    main(["new-key", str(tmp_path / "keys.json"), "alice"])
    key = capsys.readouterr().out.strip()
    deploy(tmp_path / "serving", "decoder", version(decoder(tmp_path / "m")))
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "decoder", "prompt": "a", "max_tokens": 200, "stream": True, "seed": 1}
    with process("--serving", tmp_path / "serving", "--keys", tmp_path / "keys.json") as (server, url):
        assert httpx.get(url + "/v1/models").status_code == 401
        with httpx.stream("POST", url + "/v1/completions", json=body, headers=headers, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        _, log = server.communicate(timeout=60)
        assert server.returncode == 0
    assert key not in log and "Traceback" not in log, log
    from components.inference.traffic import Traffic

    with Traffic(f"sqlite:///{tmp_path / 'serving' / 'traffic.db'}") as traffic:
        assert [row["status"] for row in traffic.requests("decoder")] == [200]


def test_without_keys_it_is_for_this_machine_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--host 0\.0\.0\.0 can be reached by others"):
        main(["--serving", str(tmp_path), "--keys", "none", "--host", "0.0.0.0", "--port", "0"])
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("0.0.0.0") and not is_loopback("example.org")


@pytest.mark.parametrize("keys", ["missing.json", "broken.json"])
def test_a_file_of_keys_that_cannot_be_read_ends_it_in_one_line(tmp_path: Path, keys: str) -> None:
    (tmp_path / "broken.json").write_text("[]")
    command = [sys.executable, "-m", "flows.stages.serving", "--serving", tmp_path, "--keys", tmp_path / keys]
    done = subprocess.run([*map(str, command), "--port", "0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert keys in done.stderr and len(done.stderr.splitlines()) == 1
