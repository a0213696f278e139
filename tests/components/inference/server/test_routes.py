"""Search, classes, judgements, health and metrics; and what is written down of each answer."""

import io
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
import torch

from benchmarks.models import WORD, picture, pictures, sound
from components.inference.server.settings import Limits, Settings
from flows.stages.loaders import load
from tests.components.inference.server.small import serve, until

CPU = torch.device("cpu")


def form(server: Any, **parts: Any) -> httpx.Response:
    files = {name: (name, value) for name, value in parts.items() if isinstance(value, bytes)}
    data = {name: value for name, value in parts.items() if not isinstance(value, bytes)}
    return httpx.post(server.url + "/v1/search", files=files, data=data)


def rows(server: Any, response: httpx.Response) -> dict[str, Any]:
    """What was written down of an answer."""
    return until(lambda: server.traffic.request(response.headers["x-request-id"]))


def test_pictures_are_found_by_text_in_the_order_of_their_cosines(server: Any, small: Path) -> None:
    model = load(small / "models" / "search", CPU).model
    names = sorted(path.name for path in (small / "pictures").iterdir())
    seen = model.embed_images([{"image": (small / "pictures" / name).read_bytes()} for name in names])
    scores = (seen @ model.embed_texts(["a red circle"])[0]).numpy()
    answer = form(server, text="a red circle")
    found = answer.json()["data"]
    assert [row["key"] for row in found] == [names[i] for i in np.argsort(-scores)]
    assert np.allclose([row["score"] for row in found], np.sort(scores)[::-1], atol=1e-5)
    shown = httpx.get(server.url + found[0]["url"])
    assert shown.content == (small / "pictures" / found[0]["key"]).read_bytes()
    assert shown.headers["content-type"] == "image/png"
    written = rows(server, answer)
    assert written["input"] == {"text": "a red circle"} and written["route"] == "/v1/search"
    assert [row["key"] for row in written["output"]["found"]] == [row["key"] for row in found]


def test_a_picture_finds_itself(server: Any, small: Path) -> None:
    data = (small / "pictures" / "blue.png").read_bytes()
    answer = form(server, image=data)
    first = answer.json()["data"][0]
    assert first["key"] == "blue.png" and first["score"] == pytest.approx(1.0, abs=1e-5)
    written = rows(server, answer)
    assert written["input"]["picture"]["bytes"] == len(data)


def test_a_voice_is_written_down_and_searched_by(server: Any, small: Path) -> None:
    data = sound(1.5)
    answer = form(server, audio=data)
    told = answer.json()
    assert told["transcript"] == WORD  # what it has learnt to hear in this tone
    assert told["heard_by"] == {"model": "recogniser", "version": "v1.0.0"}
    assert told["data"] == form(server, text=WORD).json()["data"] and len(told["data"]) == 3
    assert rows(server, answer)["input"] == {"text": WORD}
    [heard] = [row for row in server.traffic.requests("recogniser") if row["route"] == "/v1/search"][-1:]
    assert heard["output"] == {"text": WORD} and heard["input"]["sound"]["seconds"] == 1.5


def test_silence_is_no_search(server: Any) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000), 8000, format="WAV")
    answer = form(server, audio=file.getvalue())
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "nothing_heard"


@pytest.mark.parametrize("parts", [{}, {"text": "a", "image": picture()}, {"text": ""}, {"text": "a", "limit": "0"}])
def test_search_wants_one_thing_to_go_by(server: Any, parts: dict[str, Any]) -> None:
    assert form(server, **parts).status_code == 400


def test_classes_with_their_probabilities(server: Any, small: Path) -> None:
    model = load(small / "models" / "classifier", CPU).model
    expected = model.classify([{"text": "red"}, {"text": "blue square"}])
    ask = {"model": "classifier", "input": ["red", "blue square"]}
    data = httpx.post(server.url + "/v1/classify", json=ask).json()["data"]
    assert [row["label"] for row in data] == [model.classes[i] for i in expected.argmax(1)]
    assert np.allclose([list(row["probabilities"].values()) for row in data], expected, atol=1e-5)


def test_a_thumb_and_an_outcome_belong_to_an_answer(server: Any) -> None:
    ask = {"model": "decoder", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    answer = httpx.post(server.url + "/v1/chat/completions", json=ask)
    for id in (answer.json()["id"], answer.headers["x-request-id"]):
        thumb = httpx.post(server.url + "/v1/feedback", json={"id": id, "thumb": -1, "comment": "dull"})
        assert thumb.status_code == 200
    value = httpx.post(server.url + "/v1/outcomes", json={"id": id, "metric": "sold", "value": 3})
    assert value.status_code == 200
    server.traffic.flush()
    row = server.traffic.request(id)
    assert row["input"] == {"messages": [["user", "Hi"]]} and row["tokens"] == 3 and row["role"] == "champion"
    assert row["output"]["text"] == answer.json()["choices"][0]["message"]["content"]
    assert [each["thumb"] for each in server.traffic.thumbs("decoder") if each["id"] == id] == [-1]
    for wrong in ({"id": "0" * 36, "thumb": 1}, {"id": "' OR 1=1", "thumb": 1}):
        assert httpx.post(server.url + "/v1/feedback", json=wrong).status_code == 404
    assert httpx.post(server.url + "/v1/feedback", json={"id": id, "thumb": 0}).status_code == 400


def test_health_readiness_and_openapi(server: Any) -> None:
    assert httpx.get(server.url + "/healthz").json() == {"status": "ok"}
    ready = httpx.get(server.url + "/readyz").json()
    assert ready["ready"] and ready["missing"] == {}
    assert ready["serving"]["decoder"] == {"champion": "v1.0.0", "kind": "decoder", "serial": 1}
    paths = httpx.get(server.url + "/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/search", "/v1/audio/transcriptions", "/metrics"} <= paths.keys()


def test_metrics_count_what_happened(server: Any) -> None:
    def counted() -> tuple[float, float]:
        text = httpx.get(server.url + "/metrics").text
        series = (
            r'tsumugi_answer_seconds_count\{name="search",role="champion",route="/v1/embeddings",version="v1\.0\.0"\}'
        )
        answers = re.search(series + r" ([\d.]+)", text)
        tokens = re.search(r'tsumugi_tokens_total\{kind="prompt",name="search",version="v1\.0\.0"\} ([\d.]+)', text)
        return float(answers[1]) if answers else 0.0, float(tokens[1]) if tokens else 0.0

    before = counted()
    answer = httpx.post(server.url + "/v1/embeddings", json={"model": "search", "input": ["red", "blue"]}).json()
    after = counted()
    assert after[0] - before[0] == 1 and after[1] - before[1] == answer["usage"]["prompt_tokens"]
    httpx.get(server.url + "/v1/models/" + "x" * 50)
    text = httpx.get(server.url + "/metrics").text
    assert 'route="/v1/models/{model}",status="404"' in text and "xxx" not in text  # a template, not a path
    assert "tsumugi_traffic_dropped 0.0" in text


def test_metrics_tell_of_a_decoders_engine(server: Any) -> None:
    figures = ("slots", "prompt_tokens", "cached_tokens", "prefix_bytes")

    def told() -> dict[str, float]:
        text = httpx.get(server.url + "/metrics").text
        of = r'_engine_{}\{{name="decoder",version="v1\.0\.0"\}} (\S+)'
        return {figure: float(re.search(of.format(figure), text)[1]) for figure in figures}

    before = told()
    ask = {"model": "decoder", "prompt": "a small red circle " * 8, "max_tokens": 2}
    read = [httpx.post(server.url + "/v1/completions", json=ask).json()["usage"]["prompt_tokens"] for _ in range(2)]
    after = told()
    assert after["slots"] == 16 and after["prompt_tokens"] - before["prompt_tokens"] == sum(read)
    known = (read[0] - 1) // 16 * 16  # whole blocks, short of the last token, are known the second time
    assert after["cached_tokens"] - before["cached_tokens"] >= known > 0 and after["prefix_bytes"] > 0
    with httpx.Client(base_url=server.url) as client:
        assert 'tsumugi_waiting{name="search",version="v1.0.0"} 0.0' in client.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "kind"), [("/", "html"), ("/playground.css", "css"), ("/playground.js", "javascript")]
)
def test_the_playground_runs_nothing_but_its_own_files(server: Any, path: str, kind: str) -> None:
    answer = httpx.get(server.url + path)
    assert answer.status_code == 200 and answer.headers["content-type"] == f"text/{kind}; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy


def test_nothing_deployed_is_alive_and_not_ready(tmp_path: Path) -> None:
    with serve(Settings(tmp_path / "serving"), wait=False) as server:
        until(lambda: httpx.get(server.url + "/healthz").is_success)
        ready = httpx.get(server.url + "/readyz")
        assert ready.status_code == 503 and "no pointer" in ready.json()["missing"]["*"]
        assert httpx.get(server.url + "/v1/models").json()["data"] == []
        assert httpx.post(server.url + "/v1/search", data={"text": "a"}).status_code == 404


def test_pictures_come_from_shards_too(tmp_path: Path, small: Path, unlimited: Limits) -> None:
    from components.data.shards import Record, ShardWriter

    writer = ShardWriter(tmp_path / "shards", text=False)
    for path in sorted(pictures(tmp_path / "loose").iterdir()):
        writer.write(Record(path.stem, {"text": f"all {path.stem}"}, path.read_bytes(), "png"))
    writer.close()
    with serve(
        Settings(small / "serving", pictures=tmp_path / "shards", database=f"sqlite:///{tmp_path / 't.db'}")
    ) as server:
        answer = httpx.post(server.url + "/v1/search", files={"image": picture((30, 200, 40))}).json()
        assert {row["text"] for row in answer["data"]} == {"all red", "all green", "all blue"}
        assert answer["data"][0]["key"] == "green"
        shown = httpx.get(server.url + answer["data"][0]["url"]).content
        assert shown == (tmp_path / "loose" / "green.png").read_bytes()
    with pytest.raises(ValueError, match="holds no pictures"), serve(Settings(tmp_path, pictures=tmp_path / "none")):
        pass
