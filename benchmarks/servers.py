"""Our server and its peers over the same towers, each as a process: python -m benchmarks.servers PEER FOLDER PORT."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import litserve
import torch
import uvicorn

BATCH, DELAY = 32, 0.003  # requests, seconds
READY = {"ours": "/readyz", "plain FastAPI": "/health", "LitServe": "/health"}  # where each tells that it is ready
CPU = torch.device("cpu")


def ours(folder: Path, port: int) -> None:
    from components.inference.batching import BatchConfig
    from components.inference.server.app import create_app
    from components.inference.server.settings import Limits, Settings
    from flows.stages.loaders import load

    settings = Settings(
        folder / "serving",
        pictures=folder / "pictures",
        batch=BatchConfig(BATCH, DELAY),
        limits=Limits(rate=1e9, burst=1e9),
    )
    uvicorn.run(create_app(settings, partial(load, device=CPU)), port=port, access_log=False, log_level="error")


def plain(folder: Path, port: int) -> None:
    from fastapi import FastAPI

    from flows.stages.train_clip import load

    app, model = FastAPI(), load(folder / "models" / "search", CPU)

    @app.post("/v1/embeddings")
    def embed(body: dict[str, Any]) -> dict[str, Any]:
        return {"data": [{"embedding": model.embed_texts([body["input"]])[0].tolist()}]}

    @app.get("/health")
    def health() -> str:
        return "ok"

    uvicorn.run(app, port=port, access_log=False, log_level="error")


class Api(litserve.LitAPI):
    folder: Path

    def setup(self, device: str) -> None:
        from flows.stages.train_clip import load

        torch.set_num_threads(1)
        self.model = load(self.folder / "models" / "search", CPU)

    def decode_request(self, request: dict[str, Any], **_: Any) -> str:
        return request["input"]

    def predict(self, x: list[str], **_: Any) -> list[list[float]]:
        return self.model.embed_texts(x).tolist()

    def unbatch(self, output: list[list[float]]) -> list[list[float]]:
        return output

    def encode_response(self, output: list[float], **_: Any) -> dict[str, Any]:
        return {"data": [{"embedding": output}]}


def lit(folder: Path, port: int) -> None:
    api = Api(max_batch_size=BATCH, batch_timeout=DELAY, api_path="/v1/embeddings")
    api.folder = folder
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error")


SERVERS: dict[str, Callable[[Path, int], None]] = {"ours": ours, "plain FastAPI": plain, "LitServe": lit}


if __name__ == "__main__":
    torch.set_num_threads(1)
    SERVERS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
