"""Whether what people ask is what the champion was trained on: texts of requests against its very training texts.

The training texts come from the DVC cache by the hash in the champion's commit. Requests are looked at in windows that
do not overlap, each once it is full, and each may use its part of alpha (decline.py): looking every minute would make a
chance find certain. Pictures and sounds are not kept with the requests, so of them nothing can be said.
"""

import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from components.evaluation import drift, drift_texts
from components.inference import pointer
from components.inference.traffic import Traffic
from components.inference.traffic_tables import requests
from flows.continuous.decline import spent
from flows.continuous.settings import Settings
from flows.releases import recorded
from flows.releases.materialise import Objects

MOST = 2000  # of the training texts; half of them say how rare words are
ALPHA, EFFECT = 0.01, 0.1  # as the stage `drift` has them, unless continuous.yaml says otherwise


def look(root: Path, serving: Path, traffic: Traffic, name: str, settings: Settings) -> dict[str, Any] | None:
    """What has drifted in the last full window of the champion's requests, under `features`, and `window`, its name.

    None where nothing has, no window is full, or the model was not trained on texts. Refused: the training texts
    cannot be had.
    """
    if settings.source.kind != "text":
        return None
    champion = pointer.read(pointer.place(serving, name)).champion
    full, asked = last_window(traffic, name, champion.version, settings.window)
    texts = [text for each in asked for text in said(each)]
    if not texts:
        return None
    trained = _trained(root, champion.commit, settings.train)
    random.Random(0).shuffle(trained)
    shifts = drift_texts.shifts(trained[:MOST], texts)
    alpha, effect = settings.drift.get("alpha", ALPHA), settings.drift.get("effect", EFFECT)
    moved = [shift for shift in drift.judge(shifts, spent(alpha, full), effect) if shift.drifted]
    features = {shift.feature: {"effect": shift.effect, "p": shift.corrected, "moved": shift.moved} for shift in moved}
    return (
        {"window": f"{champion.version} {full}", "version": champion.version, "features": features} if moved else None
    )


def last_window(traffic: Traffic, name: str, version: str, window: int) -> tuple[int, list[Any]]:
    """How many windows of a version's requests are full, and what was asked in the last of them; no other is read."""
    of = (requests.c.name == name) & (requests.c.version == version) & (requests.c.role != "shadow")
    with traffic.engine.connect() as connection:
        full = (connection.scalar(select(func.count()).select_from(requests).where(of)) or 0) // window
        query = select(requests.c.input).where(of).order_by(requests.c.time, requests.c.id).limit(window)
        return full, list(connection.scalars(query.offset((full - 1) * window))) if full else []


def said(asked: Any) -> Iterator[str]:
    """The texts in a request's input, as the server keeps it."""
    found = asked or {}
    for each in (found.get("prompt"), found.get("text"), *(found.get("input") or ())):
        if isinstance(each, str) and each:
            yield each
    yield from (content for role, content in found.get("messages") or () if role == "user")


def _trained(root: Path, commit: str, train: str) -> list[str]:
    stage, _, run = train.partition(".")
    found = recorded.read(root, commit)
    step = found.steps[f"{stage}@{run}"]
    (split,) = [
        file.path for file in step.inputs if file.path.startswith("data/shards/") and file.path.endswith("/train")
    ]
    folder = split.removesuffix("/train")  # the cache knows what a stage made, and not parts of it
    (shards,) = [out for other in found.steps.values() for out in other.outputs if out.path == folder]
    texts = []
    with closing(Objects(root, print)) as objects:
        for shard, digest in sorted(objects.listing(shards.path, shards.hash).items()):
            if shard.startswith("train/"):
                lines = objects.content(shard, digest).decode("utf-8").split("\n")
                texts += [json.loads(line)["text"] for line in lines if line]
    return texts
