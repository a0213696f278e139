"""A classifier of pictures beside one of texts: each sorts what it was trained on, and refuses the other."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from benchmarks.models import SHAPE, classifier, deploy, picture, version
from components.encoders.image_config import ImageConfig
from components.inference.server.settings import Limits, Settings
from components.training.weights import save_model
from flows.stages import train_image
from flows.stages.loaders import load
from tests.components.inference.server.small import serve
from tests.flows.stages.small import serve as say

CLASSES = ["dark", "light", "red"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "pictures"
    config = ImageConfig(SHAPE, size=32, patch=16)
    torch.manual_seed(0)
    save_model(folder, train_image.make(config, 3, 0.0), {"encoder": asdict(config), "classes": CLASSES})
    say(folder, "train_image", "classifier")
    return folder


@pytest.fixture(scope="module")
def sorting(folder: Path, unlimited: Limits) -> Iterator[Any]:
    serving = folder.parent / "serving"
    deploy(serving, "pictures", version(folder))
    deploy(serving, "texts", version(classifier(folder.parent / "texts")))
    with serve(Settings(serving, limits=unlimited, poll=0.05)) as server:
        yield server


def ask(server: Any, model: str, data: bytes) -> httpx.Response:
    url = server.url + "/v1/classify/picture"
    return httpx.post(url, data={"model": model}, files={"image": ("a.png", data)}, timeout=60)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_sorted_as_the_model_sorts_it(sorting: Any, folder: Path, kind: str) -> None:
    data = picture((200, 30, 90), 40, kind)
    expected = load(folder, torch.device("cpu")).model.classify([{"image": data}])[0]
    answer = ask(sorting, "pictures", data)
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["data"]
    assert row["label"] == CLASSES[int(expected.argmax())]
    assert np.allclose(list(row["probabilities"].values()), expected, atol=1e-5)
    sorting.traffic.flush()
    written = sorting.traffic.request(answer.headers["x-request-id"])
    assert written["input"]["picture"]["bytes"] == len(data), "what it shows is not written down"
    assert written["output"]["labels"] == [row["label"]]


def test_each_refuses_what_the_other_sorts(sorting: Any) -> None:
    wrong = ask(sorting, "texts", picture())
    assert wrong.status_code == 400 and wrong.json()["error"]["message"] == "The model texts sorts texts."
    text = httpx.post(sorting.url + "/v1/classify", json={"model": "pictures", "input": "red"})
    assert text.status_code == 400 and text.json()["error"]["message"] == "The model pictures sorts images."
    assert ask(sorting, "pictures", b"GIF89a").json()["error"]["code"] == "invalid_image"
