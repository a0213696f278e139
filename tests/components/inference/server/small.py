"""A server over small models (benchmarks/models.py) on a free port, and waiting until something is so."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import httpx
import torch
import uvicorn

from components.inference import pointer
from components.inference.server.app import create_app
from components.inference.server.settings import Settings
from flows.stages.loaders import load


def challenger(of: pointer.Version, share: float, mode: str, experiment: str = "e1") -> pointer.Challenger:
    return pointer.Challenger(of.version, of.commit, of.folder, of.files, share, mode, experiment)  # type: ignore[arg-type]


@contextmanager
def serve(settings: Settings, wait: bool = True) -> Iterator[Any]:
    """The app on a free port, in a thread; its address as `url`, and itself as `app`."""
    torch.set_num_threads(1)
    app = create_app(settings, partial(load, device=torch.device("cpu")))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    app.state.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        if wait:
            until(lambda: httpx.get(app.state.url + "/readyz").is_success, 120.0)  # the first imports torchvision
        yield app.state
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()


def until(done: Callable[[], Any], seconds: float = 30.0) -> Any:
    """What `done` gives, once that is something."""
    end = time.monotonic() + seconds
    while True:
        try:
            if found := done():
                return found
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def embed(url: str, text: str, user: str = "u", **more: Any) -> httpx.Response:
    return httpx.post(url + "/v1/embeddings", json={"model": "search", "input": text, "user": user, **more})


def serving(server: Any) -> dict[str, Any]:
    return httpx.get(server.url + "/readyz").json()
