"""The server as an ASGI app: one process, which follows the pointers while it lives.

    app = create_app(Settings(Path(".store/serving")), load)     load: a folder -> Served

`load` comes from outside (flows/stages/loaders.py), so that nothing here knows of stages.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from fastapi import FastAPI

from components.inference.server import errors, operation, texts, vectors
from components.inference.server.desk import Desk
from components.inference.server.fleet import Fleet, Load
from components.inference.server.gate import Gate
from components.inference.server.keys import Keys
from components.inference.server.metrics import Metrics
from components.inference.server.settings import Settings
from components.inference.traffic import Traffic
from components.inference.traffic_tables import database

TITLE = "Tsumugi"
ABOUT = "OpenAI's routes over the project's own models, and search by text, picture or voice."
SWITCH = 0.0005  # s until a thread that computes or writes gives way to the loop, which answers; Python's own is 5 ms


def create_app(settings: Settings, load: Load) -> FastAPI:
    """Raises ValueError for a file of keys or a folder of pictures that is none."""
    metrics = Metrics()
    keys = Keys(settings.keys) if settings.keys else None
    fleet = Fleet(settings, load, metrics)
    settings.serving.mkdir(parents=True, exist_ok=True)
    traffic = Traffic(settings.database or database(settings.serving))
    desk = Desk(fleet, traffic, metrics, settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sys.setswitchinterval(SWITCH)
        tasks = [asyncio.create_task(fleet.follow())]
        if keys:
            tasks.append(asyncio.create_task(_refresh(keys, settings.poll)))
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await fleet.close()
        await asyncio.to_thread(traffic.close)

    app = FastAPI(title=TITLE, description=ABOUT, version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.fleet, app.state.traffic = fleet, traffic
    errors.install(app)
    for module in (texts, vectors, operation):
        app.include_router(module.router(desk))
    app.add_middleware(Gate, settings=settings, keys=keys, metrics=metrics)
    return app


async def _refresh(keys: Keys, seconds: float) -> None:
    """A key that is taken out of the file is refused from then on; a damaged file leaves the keys as they were."""
    while True:
        await asyncio.sleep(seconds)
        with contextlib.suppress(OSError, ValueError):
            await asyncio.to_thread(keys.refresh)
