"""New versions under load: swapped without a lost or mixed answer, refused when bad, freed when replaced."""

import gc
import json
import shutil
import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from benchmarks.models import decoder, deploy, version
from components.inference import pointer
from components.inference.server.pictures import find
from components.inference.server.runners import Searching, Tools
from components.inference.server.settings import Limits, Settings
from flows.stages.loaders import load
from tests.components.inference.server.small import challenger, embed, serve, serving, until

CPU = torch.device("cpu")


@pytest.fixture
def server(changing: Any) -> Any:
    return changing


def swap_under_load(server: Any, versions: list[pointer.Version], requests: int) -> Counter[str]:
    """Ask from 8 threads while the pointer goes round; each answer must be the one of the version that it names."""
    texts = [f"a red circle {i}" for i in range(10)]
    models = {each.version: load(each.folder, CPU).model for each in versions}
    known = {name: model.embed_texts(texts).numpy() for name, model in models.items()}
    over = threading.Event()
    answered: Counter[str] = Counter()
    lock = threading.Lock()

    def turn() -> None:
        serial = 1
        while not over.is_set():
            serial += 1
            deploy(server.serving, "search", versions[serial % len(versions)], serial)
            while serving(server)["serving"]["search"]["serial"] < serial and not over.is_set():
                over.wait(0.02)

    def ask(client: httpx.Client, number: int) -> None:
        body = {"model": "search", "input": [texts[number % 10], texts[(number + 3) % 10]]}
        answer = client.post("/v1/embeddings", json=body)
        assert answer.status_code == 200, answer.text
        name = answer.headers["x-tsumugi-version"]
        vectors = np.array([row["embedding"] for row in answer.json()["data"]])
        right = known[name][[number % 10, (number + 3) % 10]]
        assert np.abs(vectors - right).max() < 1e-4, f"an answer of {name} holds another version's vectors"
        with lock:
            answered[name] += 1

    turner = threading.Thread(target=turn)
    turner.start()
    try:
        with httpx.Client(base_url=server.url) as client, ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: ask(client, number), range(requests)))
    finally:
        over.set()
        turner.join()
    return answered


def test_a_swap_under_load_loses_and_mixes_nothing(server: Any, versions: list[pointer.Version]) -> None:
    answered = swap_under_load(server, versions, 400)
    assert answered.total() == 400 and len(answered) > 1


@pytest.mark.slow
def test_ten_thousand_requests_over_swaps(server: Any, versions: list[pointer.Version]) -> None:
    answered = swap_under_load(server, versions, 10_000)
    assert answered.total() == 10_000 and len(answered) == 3


def test_a_replaced_version_is_freed_once_its_last_request_has_left(tmp_path: Path, unlimited: Limits) -> None:
    """A stream that runs while the version is swapped goes on to its end by the old one."""
    first, second = (version(decoder(tmp_path / f"v{i}", seed=i), f"v{i}") for i in (1, 2))
    deploy(tmp_path / "serving", "decoder", first)
    body = {"model": "decoder", "prompt": "a", "max_tokens": 200, "temperature": 0, "stream": True}
    with serve(Settings(tmp_path / "serving", limits=unlimited, poll=0.02)) as server:
        old = server.fleet.slots["decoder"].champion
        with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            deploy(tmp_path / "serving", "decoder", second, 2)
            until(lambda: serving(server)["serving"]["decoder"]["champion"] == "v2")
            assert httpx.post(server.url + "/v1/completions", json=body | {"stream": False, "max_tokens": 2}).headers[
                "x-tsumugi-version"
            ] == "v2"  # fmt: skip
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert {event["system_fingerprint"] for event in events} == {"v1"} and "error" not in events[-1]
        assert events[-1]["choices"][0]["finish_reason"] in ("stop", "length")
        until(lambda: not old.runner.engine._thread.is_alive())


def broken(version_: pointer.Version, folder: Path, how: str) -> pointer.Version:
    """A copy of a version with something wrong."""
    shutil.copytree(version_.folder, folder)
    if how == "hash":
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")
        return replace(version_, folder=folder, version="bad")
    if how == "weights":
        (folder / "model.safetensors").write_bytes(b"no weights")
    if how == "serve":
        (folder / "serve.json").write_text('{"stage": "os", "kind": "search", "variant": "plain"}')
    if how == "missing":
        (folder / "serve.json").unlink()
    if how == "kind":
        shutil.rmtree(folder)
        decoder(folder)
    if how == "nan":
        towers_ = load(folder, CPU).model
        torch.nn.init.constant_(towers_.model.project_text.weight, torch.nan)
        from components.training.weights import load_config, save_model

        save_model(folder, towers_.model, load_config(folder))
    return version(folder, "bad")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("hash", "has SHA-256"),
        ("weights", "is damaged"),
        ("serve", "stage 'os' is none of"),
        ("missing", "serve.json is missing"),
        ("kind", "is a decoder, and search serves a search"),
        ("nan", "not finite"),
    ],
)
def test_a_bad_version_is_refused_and_the_last_good_one_stays(
    server: Any, versions: list[pointer.Version], tmp_path: Path, how: str, said: str
) -> None:
    before = embed(server.url, "red").json()["data"]
    deploy(server.serving, "search", broken(versions[1], tmp_path / "bad", how), 2)
    told = until(lambda: serving(server)["missing"])
    assert said in told["search"]
    assert serving(server)["ready"] and serving(server)["serving"]["search"]["champion"] == "v1"
    assert embed(server.url, "red").json()["data"] == before
    deploy(server.serving, "search", versions[1], 3)  # mended
    until(lambda: serving(server)["serving"]["search"]["champion"] == "v2")
    assert serving(server)["missing"] == {}


@pytest.mark.parametrize("content", [b"", b'{"name": "search"}', b"\xff\xfe", b"[" * 100_000])
def test_a_corrupt_pointer_changes_nothing(server: Any, content: bytes) -> None:
    (server.serving / "search.json").write_bytes(content)
    assert "its pointer cannot be read" in until(lambda: serving(server)["missing"])["search"]
    assert embed(server.url, "red").headers["x-tsumugi-version"] == "v1"


def test_a_pointer_that_is_gone_or_goes_back_changes_nothing(server: Any, versions: list[pointer.Version]) -> None:
    deploy(server.serving, "search", versions[1], 5)
    until(lambda: serving(server)["serving"]["search"]["champion"] == "v2")
    deploy(server.serving, "search", versions[0], 4)
    assert "went back" in until(lambda: serving(server)["missing"])["search"]
    (server.serving / "search.json").unlink()
    until(lambda: "is gone" in serving(server)["missing"].get("search", ""))
    assert embed(server.url, "red").headers["x-tsumugi-version"] == "v2"


def test_a_replaced_version_is_freed_without_the_collector_and_its_series_end(
    server: Any, versions: list[pointer.Version]
) -> None:
    embed(server.url, "red")
    assert gc.get_freeze_count() > 10_000  # what was imported: a full collection would walk through it for 0.3 s
    model = weakref.ref(server.fleet.slots["search"].champion.runner.model.model)
    gc.disable()
    try:
        deploy(server.serving, "search", versions[1], 2)
        until(lambda: model() is None)
    finally:
        gc.enable()
    embed(server.url, "red")
    told = until(lambda: 'version="v1"' not in (text := httpx.get(server.url + "/metrics").text) and text)
    assert 'tsumugi_tokens_total{kind="prompt",name="search",version="v2"}' in told


def test_towers_that_fail_on_a_picture_leave_no_thread(small: Path) -> None:
    served = load(small / "models" / "search", CPU)
    served.model.embed_images = lambda records: 1 / 0
    with pytest.raises(ZeroDivisionError):
        Searching(served, Tools(Settings(small), "failing", bool, find(small / "pictures")))
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("failing")]


def test_a_model_that_fails_to_load_never_becomes_ready(
    versions: list[pointer.Version], tmp_path: Path, unlimited: Limits
) -> None:
    bad = broken(versions[0], tmp_path / "bad", "weights")
    deploy(tmp_path / "serving", "search", bad)
    with serve(Settings(tmp_path / "serving", limits=unlimited, poll=0.02, retry=0.1), wait=False) as server:
        until(lambda: "refused" in serving(server)["missing"].get("search", ""))
        assert httpx.get(server.url + "/readyz").status_code == 503
        assert embed(server.url, "red").status_code == 503
        for file in versions[0].folder.iterdir():  # the folder is mended under the same pointer
            shutil.copy(file, tmp_path / "bad")
        deploy(tmp_path / "serving", "search", replace(versions[0], folder=bad.folder))
        until(lambda: httpx.get(server.url + "/readyz").is_success)


def test_a_challenger_that_cannot_be_loaded_leaves_the_champion_alone(
    server: Any, versions: list[pointer.Version], tmp_path: Path
) -> None:
    bad = broken(versions[1], tmp_path / "bad", "weights")
    deploy(server.serving, "search", versions[2], 2, challenger(bad, 1.0, "canary"))
    assert "challenger bad was refused" in until(lambda: serving(server)["missing"])["search"]
    answer = embed(server.url, "red")
    assert answer.status_code == 200 and answer.headers["x-tsumugi-version"] == "v3"
