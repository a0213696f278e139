"""What must not get through: attacks, floods, late and lost clients; and that keys and insides stay secret."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.models import picture, sound
from components.inference.batching import BatchConfig
from components.inference.server.keys import new_key
from components.inference.server.settings import Limits, Settings
from tests.components.inference.server.small import serve, until

CHAT = {"model": "decoder", "messages": [{"role": "user", "content": "Hi"}]}
SHORT = CHAT | {"max_tokens": 2}


@pytest.fixture
def guarded(small: Path, tmp_path: Path) -> Iterator[Any]:
    """Keys and narrow limits, over the shared models."""
    key = new_key(tmp_path / "keys.json", "alice")
    limits = Limits(body=200_000, body_seconds=0.5, depth=8, characters=5000, texts=4, rate=0.1, burst=20.0)
    settings = Settings(
        small / "serving",
        keys=tmp_path / "keys.json",
        pictures=small / "pictures",
        database=f"sqlite:///{tmp_path / 'traffic.db'}",
        slots=1,
        batch=BatchConfig(waiting=1),
        limits=limits,
    )
    with serve(settings) as server:
        server.key, server.log = key, tmp_path
        yield server


def refused(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == code and error["message"] and set(error) == {"message", "type", "param", "code"}
    assert "Traceback" not in response.text and 'File "' not in response.text


def test_without_a_key_nothing_of_v1_is_seen(guarded: Any) -> None:
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": f"Basic {guarded.key}"},
                    {"authorization": f"Bearer {guarded.key}x"}, {"authorization": "Bearer \xff"}):  # fmt: skip
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        for path in ("/v1/models", "/v1/pictures/0", "/v1/none"):
            answer = httpx.get(guarded.url + path, headers=raw)  # type: ignore[arg-type]
            refused(answer, 401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert httpx.get(guarded.url + "/").status_code == httpx.get(guarded.url + "/healthz").status_code == 200
    assert httpx.get(guarded.url + "/v1/models", headers={"authorization": f"bearer {guarded.key}"}).is_success


def test_a_key_stands_in_no_log_error_or_row(guarded: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"authorization": f"Bearer {guarded.key}"}
    guarded.fleet.slots["classifier"].champion.runner.items.work = lambda texts: 1 / 0
    broken = httpx.post(guarded.url + "/v1/classify", json={"model": "classifier", "input": "a"}, headers=headers)
    refused(broken, 500, "internal_error")
    assert "ZeroDivisionError" in caplog.text  # the log knows, the client does not
    bad = httpx.post(guarded.url + "/v1/chat/completions", content=b"{", headers=headers)
    assert bad.status_code == 400
    guarded.traffic.flush()
    written = json.dumps(guarded.traffic.requests(), default=str)
    for text in (caplog.text, broken.text, bad.text, written, httpx.get(guarded.url + "/metrics").text):
        assert guarded.key not in text
    for path in guarded.log.rglob("*"):
        assert path.is_dir() or guarded.key.encode() not in path.read_bytes()


def test_large_deep_long_and_slow_bodies_are_refused(guarded: Any) -> None:
    with httpx.Client(base_url=guarded.url, headers={"authorization": f"Bearer {guarded.key}"}) as client:
        refused(client.post("/v1/embeddings", content=b"x" * 200_001), 413, "too_large")

        def endless() -> Iterator[bytes]:  # no content-length: counted as it comes
            for _ in range(300):
                yield b"x" * 1000

        refused(client.post("/v1/embeddings", content=endless()), 413, "too_large")
        deep = b'{"model": "search", "input": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
        json_ = {"content-type": "application/json"}
        refused(client.post("/v1/embeddings", content=deep, headers=json_), 400, "too_deep")
        refused(client.post("/v1/embeddings", json={"model": "search", "input": "a" * 5001}), 400, "too_large")
        refused(client.post("/v1/embeddings", json={"model": "search", "input": ["a"] * 5}), 400, "too_large")
        long = SHORT | {"messages": [{"role": "user", "content": "a" * 5001}]}
        refused(client.post("/v1/chat/completions", json=long), 400, "context_length_exceeded")
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {guarded.key}\r\n"
        line.sendall((head + "content-length: 100\r\n\r\n{").encode())
        assert b" 408 " in line.recv(4096)


def test_bombs_and_broken_files_are_refused_before_they_are_decoded(guarded: Any) -> None:
    from tests.components.inference.server.test_limits import bomb, header, odd_rate

    with httpx.Client(base_url=guarded.url, headers={"authorization": f"Bearer {guarded.key}"}) as client:
        for data in (bomb(60_000, 60_000), picture()[:50], b"", sound()):
            assert client.post("/v1/search", files={"image": data}).status_code == 400
        for data in (header(8000), odd_rate(), sound()[:20], b"", picture(), sound(10.0)):
            told = client.post("/v1/audio/transcriptions", files={"file": data}, data={"model": "recogniser"})
            assert told.status_code == 400, told.text
        assert client.post("/v1/search", files={"image": picture()}).status_code == 200


PATHS = (
    "/v1/pictures/..%2f..%2fetc%2fpasswd",
    "/v1/pictures/../../etc/passwd",
    "/v1/pictures/-1",
    "/v1/pictures/3",
    "/v1/pictures/1e3",
    "/v1/pictures/%00",
    "/v1/pictures/99999999999999999999999",
    "/v1/models/..%2f..%2fserving",
    "//etc/passwd",
)


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out(server: Any, path: str) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:  # httpx would tidy the path up
        line.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.split()[1] in (b"400", b"404") and b"root:" not in answer


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{", b'"a"', b"\xff", b'{"model": 1}', b'{"\\ud800": 1}', b'{"model": "decoder\\u0000"}',
     b'{"model": "decoder", "messages": "hi"}', b'{"model": "decoder", "messages": [{"role": "x", "content": "y"}]}',
     json.dumps(SHORT | {"n": 2}).encode(), json.dumps(SHORT | {"logit_bias": {}}).encode(),
     json.dumps(SHORT | {"temperature": "hot"}).encode(), json.dumps(SHORT | {"max_tokens": 0}).encode(),
     json.dumps(SHORT | {"max_tokens": 10**30}).encode(), json.dumps(SHORT | {"seed": 2**63}).encode(),
     json.dumps(SHORT | {"stop": ["a"] * 5}).encode(), json.dumps(SHORT | {"stop": ""}).encode(),
     b'{"model": "decoder", "messages": [{"role": "user", "content": "\\ud800"}]}',
     b'{"model": "decoder", "temperature": NaN, "messages": [{"role": "user", "content": "a"}]}'],
)  # fmt: skip
def test_malformed_bodies_get_openais_error(server: Any, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(server.url + "/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]["message"]


JSON = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/classify", "/v1/feedback", "/v1/outcomes")
FORMS = ("/v1/search", "/v1/audio/transcriptions", "/v1/classify/picture")
KINDS = {"json": "application/json", "form": "multipart/form-data; boundary=x", "no boundary": "multipart/form-data"}
BODIES = (
    b"", b"null", b"[]", b"{", b'"a"', b"{}", b"\xff\xfe", b"\x00" * 100, b"[" * 1000, b'{"model": [1]}',
    b'{"\\ud800": 1}', b'{"model": "x", "input": 1, "prompt": {}, "id": null}', b"--x\r\n", b"--x--\r\n",
    b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\nno file\r\n--x--\r\n',
    b'--x\r\ncontent-disposition: form-data; name="audio"; filename="a"\r\n\r\n\r\n--x--\r\n',
)  # fmt: skip


def test_these_are_all_routes_that_take_a_body(server: Any) -> None:
    paths = httpx.get(server.url + "/openapi.json").json()["paths"]
    assert {path for path, ways in paths.items() if "post" in ways} == {*JSON, *FORMS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [*JSON, *FORMS])
def test_every_route_tells_openais_error(server: Any, path: str, kind: str) -> None:
    with httpx.Client(base_url=server.url, headers={"content-type": KINDS[kind]}) as client:
        answers = [client.post(path, content=body) for body in BODIES]
        answers.append(client.put(path))
    for answer in answers:
        error = answer.json()["error"]
        assert 400 <= answer.status_code < 500, answer.text
        assert error.keys() == {"message", "type", "param", "code"} and error["message"]
        assert error["type"] in ("invalid_request_error", "not_found_error")


def test_vectors_of_another_length_are_refused_and_written_down_so(server: Any) -> None:
    ask = {"model": "search", "input": "a", "dimensions": 3}
    answer = httpx.post(server.url + "/v1/embeddings", json=ask)
    refused(answer, 400, "invalid_value")
    assert until(lambda: server.traffic.request(answer.headers["x-request-id"]))["status"] == 400


def test_a_page_of_another_site_cannot_reach_an_open_server(server: Any) -> None:
    """By a name of its own that resolves to 127.0.0.1 (DNS rebinding)."""
    refused(httpx.get(server.url + "/v1/models", headers={"host": "evil.example:80"}), 403, "host_not_allowed")
    assert httpx.get(server.url + "/v1/models", headers={"host": "localhost:1"}).is_success


def test_who_asks_too_often_waits(guarded: Any) -> None:
    headers = {"authorization": f"Bearer {guarded.key}"}
    answers = [httpx.get(guarded.url + "/v1/models", headers=headers) for _ in range(25)]
    late = next(answer for answer in answers if answer.status_code == 429)
    refused(late, 429, "rate_limit_exceeded")
    assert int(late.headers["retry-after"]) >= 1
    assert httpx.get(guarded.url + "/healthz").is_success


def test_a_full_queue_answers_429_and_a_late_answer_504(guarded: Any) -> None:
    going = threading.Event()
    texts = guarded.fleet.slots["search"].champion.runner.texts
    work, began = texts.work, threading.Event()

    def held(items: list[str]) -> Any:
        began.set()
        assert going.wait(30)
        return work(items)

    texts.work = held
    headers = {"authorization": f"Bearer {guarded.key}"}
    found: list[httpx.Response] = []

    def ask(**more: str) -> httpx.Response:
        return httpx.post(guarded.url + "/v1/embeddings", json={"model": "search", "input": "a"},
                          headers=headers | more, timeout=60)  # fmt: skip

    threads = [threading.Thread(target=lambda: found.append(ask())) for _ in range(2)]
    threads[0].start()
    assert began.wait(30)
    refused(ask(**{"x-request-timeout": "0.05"}), 504, "deadline_exceeded")
    until(lambda: texts.waiting == 1)  # the late one waits no longer for an answer, and keeps its place until the pass
    over = ask()
    refused(over, 429, "overloaded")
    assert int(over.headers["retry-after"]) >= 1
    going.set()
    threads[0].join()
    threads[1].start()
    threads[1].join()
    assert [answer.status_code for answer in found] == [200, 200]
    refused(ask(**{"x-request-timeout": "soon"}), 400, "invalid_value")


def test_a_client_that_goes_frees_its_slot(server: Any, small: Path) -> None:
    """With every slot taken by streams that nobody reads to the end, a new request gets through once they are gone."""
    engine = server.fleet.slots["decoder"].champion.runner.engine
    body = CHAT | {"stream": True, "temperature": 0, "seed": 1}
    before = engine.statistics().ended.get("cancelled", 0)
    for stream in (True, False):
        request = json.dumps(body | {"stream": stream, "max_tokens": 200}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        host, port = server.url.removeprefix("http://").split(":")
        lines = [socket.create_connection((host, int(port))) for _ in range(20)]
        for line in lines:
            line.sendall((head + f"content-length: {len(request)}\r\n\r\n").encode() + request)
        until(lambda: engine.statistics().active > 0)
        for line in lines:
            line.close()
        until(lambda: engine.statistics().active == 0 and engine.statistics().waiting == 0)
    assert engine.statistics().ended.get("cancelled", 0) > before
    until(lambda: server.fleet.slots["decoder"].champion.inside == 0)
    assert httpx.post(server.url + "/v1/chat/completions", json=SHORT, timeout=30).is_success
    server.traffic.flush()
    assert {row["status"] for row in server.traffic.requests("decoder")} >= {200, 499}


def test_many_streams_share_the_slots_and_all_end(server: Any) -> None:
    found: list[str] = []

    def ask(number: int) -> None:
        body = CHAT | {"stream": True, "max_tokens": 10, "seed": number, "user": str(number)}
        with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=60) as answer:
            found.append(list(answer.iter_lines())[-2])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["data: [DONE]"] * 40


def test_the_loop_answers_while_models_compute(server: Any) -> None:
    """Health is told while every model is held: nothing computes on the event loop."""
    held = threading.Event()
    runner = server.fleet.slots["classifier"].champion.runner
    work = runner.items.work
    runner.items.work = lambda items: held.wait(30) and work(items)
    ask = {"model": "classifier", "input": "a"}
    thread = threading.Thread(
        target=httpx.post, args=(server.url + "/v1/classify",), kwargs={"json": ask, "timeout": 60}
    )
    thread.start()
    try:
        until(lambda: runner.items._thread.is_alive() and server.fleet.slots["classifier"].champion.inside)
        assert httpx.get(server.url + "/healthz", timeout=10).is_success
        assert server.fleet.slots["classifier"].champion.inside == 1
    finally:
        held.set()
        thread.join()
        runner.items.work = work
        time.sleep(0)
