"""What starts a retraining, each an event whose payload names the model: prefect.yaml maps it to the flow's parameters.

    tsumugi.data.arrived      other files lie in the model's folder or bucket than those that were taken in
    tsumugi.drift.seen        what is asked of the champion is not what it was trained on
    tsumugi.model.declined    outcomes of the champion's answers fall below those of its first ones
    tsumugi.retraining.due    by the clock
    tsumugi.retraining.asked  by a person (`tsumugi ct start NAME` sends it)

`watch` looks for the first three on a short schedule. It remembers what it has told, and tells it once; data that a run
has not seen through (it was killed, say) are told again after a while.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.events import emit_event
from sqlalchemy.exc import SQLAlchemyError

from components.durable import write_whole
from components.inference import pointer
from components.inference.traffic import Traffic
from components.inference.traffic_tables import database
from flows.continuous import decline, incoming, traffic_drift
from flows.continuous.generation import Generation
from flows.continuous.notify import resource
from flows.continuous.settings import Settings, models, read_settings
from flows.continuous_training import inbox, outcome, served, store
from flows.graph import one_line
from flows.processes import alone
from flows.workspace import ROOT

AGAIN = 900.0  # seconds, after which data that no run has seen through are told again
Mark = tuple[str, str, dict[str, Any]]  # event, what it is told once for, payload


@flow(persist_result=False)
def watch(repo: str | None = None, serving: str | None = None) -> list[str]:
    """Look at every model of continuous.yaml once, and tell what is new; the events that were sent."""
    root = Path(repo) if repo else ROOT
    place = served(root, serving)
    sent = []
    for name in models(root):
        if not pointer.place(place, name).exists():
            get_run_logger().info("%s is not served yet: nothing to watch", name)
            continue
        with alone(store(root) / f"{name}.lock", wait=False) as idle:
            if idle:  # a run that is at work sees to what there is
                for mark in look(root, place, name):
                    _send(root, name, mark)  # at once: what is found next may fail
                    sent.append(mark[0])
                forget(root, place, name)
    return sent


@flow(persist_result=False)
def due(repo: str | None = None) -> None:
    """Have every model of continuous.yaml retrained, if there is anything new."""
    for name in models(Path(repo) if repo else ROOT):
        emit_event("tsumugi.retraining.due", resource(name), payload={"name": name})


def look(root: Path, serving: Path, name: str) -> Iterator[Mark]:
    """What there is to tell of a model, and was not told; a part of it that cannot be looked at is logged."""
    for check in (_data, _drift, _decline):
        with _logged(name, check.__name__.strip("_")):
            settings = read_settings(root, name)
            for mark in check(root, serving, name, settings):
                if _untold(root, name, mark):
                    yield mark


def forget(root: Path, serving: Path, name: str) -> None:
    """Have the traffic database keep no more of a model than continuous.yaml says."""
    with _logged(name, "old traffic"), _opened(serving) as traffic:
        now = pointer.read(pointer.place(serving, name))
        versions = [each.version for each in (now.champion, now.challenger) if each]
        traffic.forget(name, time.time() - 86400 * read_settings(root, name).keep_days, versions)


@contextmanager
def _logged(name: str, what: str) -> Iterator[None]:
    """One part that is broken keeps nobody from the others, nor from other models."""
    try:
        yield
    except (ValueError, KeyError, OSError, SQLAlchemyError) as error:
        get_run_logger().warning("%s: no look at its %s: %s", name, what, one_line(error))


@contextmanager
def _opened(serving: Path) -> Iterator[Traffic]:
    with Traffic(database(serving)) as traffic:
        traffic.experiments()  # makes the tables, where nobody has
        yield traffic


def _data(root: Path, _serving: Path, name: str, settings: Settings) -> Iterator[Mark]:
    mark = incoming.arrived(settings.watched(root))
    state = incoming.seen(inbox(root, name)).get(mark)  # empty: none of it is new
    if mark and state != "" and not (state and outcome(Generation.of(root, name, state, settings))):
        yield "tsumugi.data.arrived", mark, {"source": settings.watched(root)}


def _drift(root: Path, serving: Path, name: str, settings: Settings) -> Iterator[Mark]:
    with _opened(serving) as traffic:
        seen = traffic_drift.look(root, serving, traffic, name, settings)
    if seen:
        yield "tsumugi.drift.seen", seen.pop("window"), seen


def _decline(_root: Path, serving: Path, name: str, settings: Settings) -> Iterator[Mark]:
    version = pointer.read(pointer.place(serving, name)).champion.version
    with _opened(serving) as traffic:
        for metric in settings.design(name).primary:
            found = decline.look(traffic, name, version, metric, settings.window)
            if found:
                yield "tsumugi.model.declined", f"{version} {metric.name}", found


def _untold(root: Path, name: str, mark: Mark) -> bool:
    event, what, _ = mark
    told = _told(root, name).get(f"{event} {what}")
    return told is None or (event == "tsumugi.data.arrived" and time.time() - told > AGAIN)


def _send(root: Path, name: str, mark: Mark) -> None:
    """Tell it, and remember that."""
    event, what, payload = mark
    get_run_logger().info("%s: %s %s", name, event, payload)
    emit_event(event, resource(name), payload={"name": name, **payload})
    told = _told(root, name) | {f"{event} {what}": time.time()}
    write_whole(store(root) / name / "told.json", json.dumps(told, indent=1).encode())


def _told(root: Path, name: str) -> dict[str, float]:
    """When each event was told, by it and what it was told for."""
    path = store(root) / name / "told.json"
    return json.loads(path.read_text()) if path.exists() else {}
