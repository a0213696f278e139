"""People who use the classifier while the circle turns: they come at a steady rate, over HTTP, and say what came of it.

Each sends one text of the generated world, whose label is known, and reports by the outcome `accepted` whether the
answer was right. Their population can shift: from then on they have other words for the same colours. Whoever comes
while `MOST` are waiting goes away unasked; for all others, any status but 200 is a failure.
"""

import asyncio
import random
import threading
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal

import httpx

from components.data.world.captions import COLOURS_JA, english, form, japanese
from components.data.world.scenes import Scene, details, scenes
from components.inference import pointer

Population = Literal["usual", "shifted"]
OTHER_EN = {
    "red": "crimson", "green": "emerald", "blue": "azure", "yellow": "golden",
    "orange": "amber", "purple": "violet", "white": "ivory", "black": "ebony",
}  # fmt: skip
OTHER_JA = {
    "red": "紅の", "green": "翡翠の", "blue": "藍の", "yellow": "山吹の",
    "orange": "橙の", "purple": "菫の", "white": "雪の", "black": "墨の",
}  # fmt: skip
METRIC = "accepted"
MOST = 24  # who wait for an answer at the same time: what the machine bears
TIMEOUT = 120.0  # seconds
KEPT = 2.0  # seconds that an idle connection is kept; the server closes one after 5, perhaps while it is used again
LOOK = 0.2  # seconds between two looks at the pointer


def texts(seed: int, objects: int, skip: int, count: int, population: Population) -> list[tuple[str, str]]:
    """(text, label): what is said of `count` scenes of up to so many objects, after the first `skip` ones of train."""
    later = islice(scenes(seed, "train", skip + 10 * count), skip, None)
    few = (scene for scene in later if len(scene.things) <= objects)
    return [(_caption(scene, population), scene.uppermost.colour) for scene in islice(few, count)]


def _caption(scene: Scene, population: Population) -> str:
    rng = details(scene, "circle")
    wording, in_japanese = form(rng), bool(rng.integers(2))
    text = japanese(scene, wording) if in_japanese else english(scene, wording)
    if population == "shifted":
        for thing in scene.things:
            colour = thing.colour
            old, new = (COLOURS_JA[colour], OTHER_JA[colour]) if in_japanese else (colour, OTHER_EN[colour])
            text = text.replace(old, new)
    return text


@dataclass(frozen=True)
class Answer:
    time: float  # seconds since 1970
    id: str
    population: Population
    version: str
    right: bool


class Users(threading.Thread):
    """People at the server's `url` from the with block's begin to its end; `population` may be changed meanwhile.

    `answers`, `failures` (in words) and `moves` (of the model's pointer: time, champion, challenger) only grow.
    """

    def __init__(self, url: str, serving: Path, name: str, sayings: dict[Population, list[tuple[str, str]]]) -> None:
        super().__init__(name="users", daemon=True)
        self.url, self.model, self.sayings = url, name, sayings
        self.pointer = pointer.place(serving, name)
        self.population: Population = "usual"
        self.rate = 10.0  # people a second
        self.answers: list[Answer] = []
        self.failures: list[str] = []
        self.moves: list[tuple[float, str, str | None]] = []
        self.requests = self.away = 0  # sent; people who found too many waiting
        self._ended = threading.Event()

    def of(self, version: str, population: Population, since: float = 0.0) -> list[Answer]:
        return [a for a in self.answers if (a.version, a.population) == (version, population) and a.time >= since]

    def run(self) -> None:
        asyncio.run(self._live())

    def __enter__(self) -> "Users":
        self.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self.join()

    async def _live(self) -> None:
        rng, number = random.Random(0), 0
        limits = httpx.Limits(keepalive_expiry=KEPT)
        watch = asyncio.create_task(self._follow())
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT, limits=limits) as client,
            asyncio.TaskGroup() as here,
        ):
            inside: set[asyncio.Task[None]] = set()
            while not self._ended.is_set():
                await asyncio.sleep(rng.expovariate(self.rate))
                if len(inside) >= MOST:
                    self.away += 1
                    continue
                number += 1
                visit = here.create_task(self._visit(client, f"user {number}", self.population, rng))
                inside.add(visit)
                visit.add_done_callback(inside.discard)
        watch.cancel()

    async def _visit(self, client: httpx.AsyncClient, user: str, population: Population, rng: random.Random) -> None:
        text, label = rng.choice(self.sayings[population])
        try:
            reply = await self._post(client, "/v1/classify", {"model": self.model, "input": text, "user": user})
            said = reply.json()["data"][0]["label"]
            id, version = reply.headers["x-request-id"], reply.headers["x-tsumugi-version"]
            self.answers.append(Answer(time.time(), id, population, version, said == label))
            await self._post(client, "/v1/outcomes", {"id": id, "metric": METRIC, "value": float(said == label)})
        except (httpx.HTTPError, LookupError, ValueError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")

    async def _post(self, client: httpx.AsyncClient, path: str, body: dict[str, object]) -> httpx.Response:
        self.requests += 1
        reply = await client.post(path, json=body)
        if reply.status_code != httpx.codes.OK:
            raise httpx.HTTPError(f"{path}: {reply.status_code} {reply.text[:200]}")
        return reply

    async def _follow(self) -> None:
        """Note each move of the pointer."""
        serial = 0
        while True:
            now = pointer.read(self.pointer)
            if now.serial != serial:
                serial = now.serial
                self.moves.append((time.time(), now.champion.version, now.challenger and now.challenger.version))
            await asyncio.sleep(LOOK)
