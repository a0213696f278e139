"""The server beside a plain FastAPI loop and beside LitServe on the same model: p50, p99 and throughput by concurrency.

    python -m benchmarks.serving [--seconds S] [--rounds N] [--json FILE]       about 3 minutes
    python -m benchmarks.serving --minutes 30 [--json FILE]                     a soak: mixed load, swaps, memory

The model is the text tower of the demo's size (2 x 128), by random weights, on /v1/embeddings with one caption a
request; each server is a process, torch has one thread in it, and the peers take turns within a round, the others
halted. LitServe gets batches of 32 and 3 ms like ours; the plain loop is FastAPI calling the model in its thread pool.

To reach: at concurrency 1 less than 2 ms at p50 over the bare model, which this process calls in the same rounds. CPU
milliseconds a request hold on a busy machine, too; LitServe's processes also spend some while they wait.

The soak asks every route of one server from 8 clients while the towers' version changes every 20 s: no error, and
memory that after the first tenth grows by less than 5%. The decoder's cache of prompts is filled before.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.environment import environment
from benchmarks.load import Taken, load, packed
from benchmarks.servers import READY

CONCURRENCY = (1, 8, 32)
OVERHEAD = 2.0  # milliseconds at p50
GROWTH = 0.05  # of memory, after the first tenth of a soak
CAPTIONS = [
    f"a small {colour} circle at the {place}" for colour in ("red", "blue") for place in ("left", "right", "top")
]


@contextlib.contextmanager
def running(peer: str, folder: Path) -> Iterator[tuple[str, int]]:
    """A peer's address and process, once it is ready; it and what it started are ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.servers", peer, str(folder), str(port)]
    process = subprocess.Popen(command, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url + READY[peer]).is_success:
                    break
            if process.poll() is not None:
                raise RuntimeError(f"{peer} ended with {process.returncode} before it was ready")
            time.sleep(0.2)
        yield url, process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def awake(process: int) -> Iterator[None]:
    """A halted peer goes on meanwhile: LitServe's processes poll while they wait, and would slow the others."""
    parent = psutil.Process(process)
    family = (parent, *parent.children(recursive=True))
    for each in family:
        each.resume()
    try:
        yield
    finally:
        for each in family:
            each.suspend()


def bare(folder: Path) -> Callable[[float], Taken]:
    """The model called in this process, for so many seconds."""
    import torch

    from flows.stages.train_clip import load as load_model

    torch.set_num_threads(1)
    model = load_model(folder / "models" / "search", torch.device("cpu"))

    def call(seconds: float) -> Taken:
        taken = Taken()
        began = time.perf_counter()
        while (started := time.perf_counter()) < began + seconds:
            model.embed_texts([CAPTIONS[len(taken.seconds) % len(CAPTIONS)]])
            taken.seconds.append(time.perf_counter() - started)
        taken.wall = time.perf_counter() - began
        return taken

    return call


def compare(folder: Path, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """A row for each peer and concurrency: the median of the rounds."""
    figures: dict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    turns = list(READY)
    call = bare(folder)
    with contextlib.ExitStack() as stack:
        found = {peer: stack.enter_context(running(peer, folder)) for peer in READY}
        urls = {peer: url for peer, (url, _) in found.items()}
        bodies = [{"model": "search", "input": caption} for caption in CAPTIONS]
        requests = {peer: [packed(url, "/v1/embeddings", json=body) for body in bodies] for peer, url in urls.items()}
        for _, process in found.values():
            with awake(process):
                pass  # halted from now on
        for number in range(rounds + 1):  # the first one warms up
            for clients in CONCURRENCY:
                if clients == 1:
                    before = time.process_time()
                    taken = call(seconds)
                    spent = (time.process_time() - before) / len(taken.seconds) * 1e3
                    figures["bare model", 1].append(taken.summary() | {"cpu": spent})
                for peer in turns[number % len(turns) :] + turns[: number % len(turns)]:
                    before = cpu(found[peer][1])
                    with awake(found[peer][1]):
                        taken = load(urls[peer], requests[peer], clients, seconds)
                    if taken.failures:
                        raise RuntimeError(f"{peer}: {len(taken.failures)} failed, the first with {taken.failures[0]}")
                    spent = (cpu(found[peer][1]) - before) / len(taken.seconds) * 1e3
                    figures[peer, clients].append(taken.summary() | {"cpu": spent})
    return [
        {"peer": peer, "clients": clients}
        | {name: float(np.median([each[name] for each in some[1:]])) for name in some[0]}
        for (peer, clients), some in figures.items()
    ]


def cpu(process: int) -> float:
    """CPU seconds of a process and of those that it started, so far."""
    parent = psutil.Process(process)
    return sum(sum(each.cpu_times()[:2]) for each in (parent, *parent.children(recursive=True)))


def table(rows: list[dict[str, Any]]) -> None:
    print(f"{'clients':>7}  {'server':14} {'p50 ms':>8} {'p99 ms':>8} {'requests/s':>11} {'CPU ms':>7}")
    for row in sorted(rows, key=lambda row: row["clients"]):
        print(
            f"{row['clients']:7}  {row['peer']:14} {row['p50']:8.2f} {row['p99']:8.2f} {row['throughput']:11.0f} "
            f"{row['cpu']:7.2f}",
            flush=True,
        )


def overhead(rows: list[dict[str, Any]], peer: str) -> float:
    """Milliseconds at p50 over the bare model, at concurrency 1."""
    by = {(row["peer"], row["clients"]): row for row in rows}
    return by[peer, 1]["p50"] - by["bare model", 1]["p50"]


def verdict(milliseconds: float) -> str:
    if milliseconds < 0:  # no server is faster than its model
        return "undecided: the machine is busy with other work, measure on an idle one"
    return "holds" if milliseconds < OVERHEAD else "MISSED"


def mixed(url: str) -> list[bytes]:
    """A request for each route, as people would mix them; thumbs and outcomes are of an answer given before."""
    from benchmarks.models import picture, sound

    answer = httpx.post(url + "/v1/classify", json={"model": "classifier", "input": "red"})
    of = {"id": answer.headers["x-request-id"]}
    talk = {"model": "decoder", "messages": [{"role": "user", "content": "Where is it?"}], "max_tokens": 16}
    data = {"model": "recogniser"}
    return [
        packed(url, "/v1/chat/completions", json=talk),
        packed(url, "/v1/chat/completions", json=talk | {"stream": True}),
        packed(url, "/v1/completions", json={"model": "decoder", "prompt": "a small", "max_tokens": 8}),
        *(packed(url, "/v1/embeddings", json={"model": "search", "input": CAPTIONS[:n]}) for n in (1, 4)),
        packed(url, "/v1/classify", json={"model": "classifier", "input": "red"}),
        packed(url, "/v1/search", data={"text": "a red circle"}),
        packed(url, "/v1/search", files={"image": ("a.png", picture())}),
        packed(url, "/v1/search", files={"audio": ("a.wav", sound())}),
        packed(url, "/v1/audio/transcriptions", files={"file": ("a.wav", sound())}, data=data),
        packed(url, "/v1/feedback", json=of | {"thumb": 1}),
        packed(url, "/v1/outcomes", json=of | {"metric": "sold", "value": 3}),
        *(packed(url, path, "GET") for path in ("/v1/models", "/v1/models/search", "/v1/pictures/0", "/metrics")),
    ]


def fill(url: str) -> None:
    """Fill what the decoder keeps of earlier prompts, which has a bound (64 MiB): what grows afterwards has none."""
    for number in range(150):  # of half a MiB each
        digits = "".join(random.Random(number).choices("0123456789", k=240))  # a token each
        body = {"model": "decoder", "prompt": digits, "max_tokens": 1}
        httpx.post(url + "/v1/completions", json=body).raise_for_status()


def soak(folder: Path, minutes: float) -> dict[str, Any]:
    """Mixed load for so long, with the towers' version changed every 20 s and memory read every 2 s."""
    from benchmarks.models import deploy, towers, version

    versions = [version(folder / "models" / "search", "v1"), version(towers(folder / "models" / "other", 1), "v2")]
    over, memory, swaps = threading.Event(), list[tuple[float, int]](), 0
    with running("ours", folder) as (url, process):

        def watch() -> None:
            nonlocal swaps
            began = time.monotonic()
            while not over.wait(2.0):
                memory.append((time.monotonic() - began, psutil.Process(process).memory_info().rss))
                if memory[-1][0] // 20 > swaps:
                    swaps += 1
                    deploy(folder / "serving", "search", versions[swaps % 2], swaps + 1)

        fill(url)
        watcher = threading.Thread(target=watch)
        watcher.start()
        taken = load(url, mixed(url), 8, minutes * 60)
        over.set()
        watcher.join()
        refused = httpx.get(url + "/readyz").json()["missing"]
    settled = [size for _, size in memory[len(memory) // 10 :]]
    share = max(1, len(settled) // 10)
    first, last = float(np.median(settled[:share])), float(np.median(settled[-share:]))
    return {
        "minutes": minutes,
        "requests": len(taken.seconds),
        "failures": len(taken.failures),
        "first_failures": taken.failures[:3],
        "swaps": swaps,
        "refused": refused,
        **taken.summary(),
        "mib": [first / 2**20, last / 2**20],
        "growth": last / first - 1,
        "memory": [(round(second, 1), round(size / 2**20, 1)) for second, size in memory],
    }


def main() -> None:
    from benchmarks.models import everything
    from components.transformer.config import TransformerConfig

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="of each measurement (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="the median counts (default: 3)")
    parser.add_argument("--minutes", type=float, metavar="M", help="soak one server for so long instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    given = parser.parse_args()
    result: dict[str, Any] = {"environment": environment("torch", "fastapi", "uvicorn", "litserve")}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        everything(folder, TransformerConfig(width=128, depth=2, heads=4))  # the demo's size
        if given.minutes:
            result["soak"] = found = soak(folder, given.minutes)
            print({name: value for name, value in found.items() if name != "memory"})
            print(f"no failure: {'holds' if not found['failures'] else 'MISSED'}")
            print(f"memory grows by less than {GROWTH:.0%}: {'holds' if found['growth'] < GROWTH else 'MISSED'}")
        else:
            result["rows"] = rows = compare(folder, given.seconds, given.rounds)
            table(rows)
            result["overhead"] = {peer: overhead(rows, peer) for peer in READY}
            print("over the bare model at p50:", ", ".join(f"{p} {ms:.2f} ms" for p, ms in result["overhead"].items()))
            print(f"under {OVERHEAD:g} ms: {verdict(result['overhead']['ours'])}")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
