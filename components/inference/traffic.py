"""What was asked and answered, what came of it, and what people thought of it: four tables, in SQLite or PostgreSQL.

Nothing here is on the path of a request: rows go into a bounded queue, and one thread writes them, many in one
transaction. While the database is away the rows wait; when the queue is full, new ones are counted as `dropped`.
One variable, TSUMUGI_DATABASE, changes the database (traffic_tables.py). Times are seconds since 1970.
"""

import logging
import queue
import threading
import time
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine, Select, Table, case, delete, insert, null, select, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError

from components.inference.traffic_tables import connect, experiments, feedback, metadata, outcomes, requests

log = logging.getLogger(__name__)
Role = Literal["champion", "challenger", "shadow"]
State = Literal["planned", "running", "ended"]
TOGETHER = 500  # rows in one transaction at most
CHARACTERS = 100_000_000  # of inputs and outputs that wait at most: memory is to last while the database is away
GATHER = 0.2  # seconds that a first row waits for others: a transaction a row would cost as much as a small model
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0  # seconds before a write is tried again, doubled each time


@dataclass(frozen=True)
class Observations:
    """Of one metric in one arm of an experiment, in order of time."""

    users: NDArray[Any]  # [n], str
    values: NDArray[np.float64]  # [n]
    times: NDArray[np.float64]  # [n], seconds since 1970


class Traffic:
    """A database of traffic. `dropped`: rows lost because the queue was full or a row was refused.

    Reading methods raise sqlalchemy.exc.OperationalError while the database cannot be reached; writing ones never.
    """

    def __init__(self, url: str, waiting: int = 20_000) -> None:
        self.engine = connect(url)
        self.dropped = 0
        self._rows: queue.Queue[tuple[Table, dict[str, Any], int] | None] = queue.Queue(waiting)
        self._characters, self._count = 0, threading.Lock()  # of what waits
        self._recent: OrderedDict[str, None] = OrderedDict()  # ids of rows that may wait
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._made = False
        self._writer = threading.Thread(target=self._write, name="traffic", daemon=True)
        self._writer.start()

    def record(
        self,
        *,
        user: str,
        name: str,
        version: str,
        commit: str,
        role: Role,
        route: str,
        status: int,
        seconds: float,
        id: str = "",
        experiment: str | None = None,
        tokens: int = 0,
        input: Any = None,
        output: Any = None,
        time: float | None = None,
    ) -> str:
        """Note one request; its id. ValueError for an id that is no UUID."""
        row = {key: value for key, value in locals().items() if key != "self"}
        row |= {"id": str(uuid.UUID(id)) if id else str(uuid.uuid4()), "time": _now(time)}
        self._put(requests, row)
        self._recent[row["id"]] = None
        if len(self._recent) > self._rows.maxsize:
            self._recent.popitem(last=False)
        return row["id"]

    def outcome(self, request: str, metric: str, value: float, time: float | None = None) -> None:
        """Note what came of a request, by any measure that a team keeps."""
        self._put(outcomes, {"request": request, "metric": metric, "value": value, "time": _now(time)})

    def feedback(self, request: str, thumb: int, comment: str = "", time: float | None = None) -> str:
        """Note a thumb, up (1) or down (-1), also as an outcome of the metric `thumb`; its id.

        Raises:
            ValueError: another thumb.
        """
        if thumb not in (-1, 1):
            raise ValueError(f"thumb {thumb} is neither 1 (up) nor -1 (down)")
        text = comment.encode("utf-8", "replace").decode().replace("\0", "")  # PostgreSQL keeps no NUL
        row = {"id": str(uuid.uuid4()), "request": request, "thumb": thumb, "comment": text, "time": _now(time)}
        self._put(feedback, row)
        self.outcome(request, "thumb", float(thumb), row["time"])
        return row["id"]

    def requests(
        self, name: str | None = None, since: float = 0.0, until: float = float("inf"), limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows of `requests` in order of time; the newest `limit` of them."""
        query = select(requests).where(requests.c.time >= since).order_by(requests.c.time.desc()).limit(limit)
        if name is not None:
            query = query.where(requests.c.name == name)
        if until < float("inf"):
            query = query.where(requests.c.time < until)
        return self._read(query)[::-1]

    def request(self, id: str) -> dict[str, Any] | None:
        """One row of `requests`."""
        return next(iter(self._read(select(requests).where(requests.c.id == id))), None)

    def knows(self, id: str) -> bool:
        """Whether a request was noted, also if its row is not written yet."""
        return id in self._recent or self.request(id) is not None

    def thumbs(self, name: str, since: float = 0.0) -> list[dict[str, Any]]:
        """Requests of a name with the last `thumb` and `comment` that each got since then, in order of the thumbs."""
        query = (
            select(requests, feedback.c.thumb, feedback.c.comment, feedback.c.time.label("judged"))
            .join(feedback, feedback.c.request == requests.c.id)
            .where(requests.c.name == name, feedback.c.time >= since)
            .order_by(feedback.c.time)
        )
        last = {row["id"]: row for row in self._read(query)}
        return sorted(last.values(), key=lambda row: row["judged"])

    def outcomes(self, experiment: str, metric: str) -> dict[str, Observations]:
        """Per role, the values of one metric, each with its user, in order of time.

        Two metrics need no logging: `seconds` (of requests answered) and `failed` (1 where the status is 500 or more).
        """
        own = {"seconds": requests.c.seconds, "failed": case((requests.c.status >= 500, 1.0), else_=0.0)}
        of = requests.c.experiment == experiment
        if metric in own:
            query = select(requests.c.role, requests.c.user, own[metric].label("value"), requests.c.time).where(of)
            query = query.where(requests.c.status < (400 if metric == "seconds" else 600)).order_by(requests.c.time)
        else:
            query = (
                select(requests.c.role, requests.c.user, outcomes.c.value, outcomes.c.time)
                .join(outcomes, outcomes.c.request == requests.c.id)
                .where(of, outcomes.c.metric == metric)
                .order_by(outcomes.c.time, outcomes.c.number)
            )
        rows: dict[str, list[tuple[str, float, float]]] = defaultdict(list)
        for row in self._read(query):
            rows[row["role"]].append((row["user"], row["value"], row["time"]))
        arms = {role: list(zip(*some, strict=True)) for role, some in sorted(rows.items())}
        return {
            role: Observations(np.array(users), np.array(values, np.float64), np.array(times, np.float64))
            for role, (users, values, times) in arms.items()
        }

    def add_experiment(self, id: str, name: str, champion: str, challenger: str, config: Any = None) -> None:
        """A new experiment, planned. sqlalchemy.exc.IntegrityError where the id is taken."""
        row = {"id": id, "name": name, "champion": champion, "challenger": challenger, "config": config}
        with self._ready().begin() as connection:
            connection.execute(insert(experiments).values(**row, state="planned"))

    def change_experiment(self, id: str, **fields: Any) -> None:
        """Change some of: state, config, verdict, started, ended. KeyError where there is no such experiment."""
        with self._ready().begin() as connection:
            if not connection.execute(update(experiments).where(experiments.c.id == id).values(**fields)).rowcount:
                raise KeyError(id)

    def experiment(self, id: str) -> dict[str, Any] | None:
        """One row of `experiments`."""
        return next(iter(self._read(select(experiments).where(experiments.c.id == id))), None)

    def experiments(self, name: str | None = None, state: State | None = None) -> list[dict[str, Any]]:
        """Rows of `experiments` by id."""
        query = select(experiments).order_by(experiments.c.id)
        if name is not None:
            query = query.where(experiments.c.name == name)
        if state is not None:
            query = query.where(experiments.c.state == state)
        return self._read(query)

    def forget(self, name: str, before: float, serving: Sequence[str]) -> int:
        """Delete a name's requests before a time, with their outcomes, but for those of versions that serve: of them
        what was asked and answered is blanked. What somebody has judged stays, for it teaches; how many were deleted.
        """
        old = (requests.c.name == name) & (requests.c.time < before) & requests.c.id.not_in(select(feedback.c.request))
        gone = select(requests.c.id).where(old, requests.c.version.not_in(serving))
        with self._ready().begin() as connection:
            connection.execute(delete(outcomes).where(outcomes.c.request.in_(gone)))
            count = connection.execute(delete(requests).where(requests.c.id.in_(gone))).rowcount
            said = old & requests.c.input.is_not(null())
            connection.execute(update(requests).where(said).values(input=null(), output=null()))
        return count

    def flush(self) -> None:
        """Wait until all that was noted before is written or given up."""
        self._hurry.set()
        self._rows.join()
        self._hurry.clear()

    def close(self, seconds: float = 10.0) -> None:
        """Write what waits, for so long at the most where the database is away, and end the thread."""
        timer = threading.Timer(seconds, self._stop.set)
        timer.daemon = True
        timer.start()
        self._hurry.set()
        self._rows.put(None)
        self._writer.join()
        timer.cancel()
        self.engine.dispose()

    def __enter__(self) -> "Traffic":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, table: Table, row: dict[str, Any]) -> None:
        size = len(str(row.get("input"))) + len(str(row.get("output")))
        try:
            with self._count:
                if self._characters + size > CHARACTERS:
                    raise queue.Full
                self._rows.put_nowait((table, row, size))
                self._characters += size
        except queue.Full:
            self.dropped += 1

    def _read(self, query: Select[Any]) -> list[dict[str, Any]]:
        with self._ready().connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _ready(self) -> Engine:
        """The engine, once the tables are there. Where processes make them at once, one finds another's in its way."""
        tries = 0 if self._made else 2 * len(metadata.tables)
        for left in reversed(range(tries)):
            try:
                metadata.create_all(self.engine)
                self._made = True
                break
            except DBAPIError:
                if not left:
                    raise
        return self.engine

    def _write(self) -> None:
        ended = False
        while not ended:
            some = [self._rows.get()]
            self._hurry.wait(GATHER)
            while len(some) < TOGETHER and not self._rows.empty():
                some.append(self._rows.get_nowait())
            rows = [row for row in some if row is not None]
            ended = len(rows) < len(some)
            self._store([row[:2] for row in rows])
            with self._count:
                self._characters -= sum(size for _, _, size in rows)
            for _ in some:
                self._rows.task_done()

    def _store(self, rows: Sequence[tuple[Table, dict[str, Any]]]) -> None:
        """Write rows in one transaction, again and again while the database is away; refused ones are left out."""
        wait = FIRST_WAIT
        while rows:
            try:
                with self._ready().begin() as connection:
                    for table in (requests, outcomes, feedback):
                        if some := [row for where, row in rows if where is table]:
                            connection.execute(insert(table), some)
                return
            except (OperationalError, InterfaceError) as error:
                log.warning("traffic waits for its database: %s", str(error.orig).partition("\n")[0])
                if self._stop.wait(wait):
                    self.dropped += len(rows)
                    return
                wait = min(2 * wait, LONGEST_WAIT)
            except (SQLAlchemyError, ValueError, TypeError) as error:
                if len(rows) == 1:
                    self.dropped += 1
                    log.error("traffic leaves out a row of %s: %s", rows[0][0].name, type(error).__name__)
                    return
                for row in rows:
                    self._store([row])
                return


def _now(given: float | None) -> float:
    return time.time() if given is None else given
