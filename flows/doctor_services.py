"""The doctor's looks at what a checkout keeps and talks to: cache, remote, locks, Prefect, database, served files."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import psutil

from components.inference import pointer, traffic_tables
from flows import processes, server, workspace
from flows.doctor import Finding, Place
from flows.graph import one_line
from flows.workspace import Refused


def cache(place: Place) -> Iterator[Finding]:
    """A DVC repository whose cache can be written."""
    try:
        workspace.check_checkout(place.root)
    except Refused as error:
        thing, _, remedy = str(error).rpartition(": ")
        yield Finding("cache", "wrong", thing, remedy)
    else:
        yield Finding("cache", "ok", str(workspace.cache_folder(place.root)))


def remote(place: Place) -> Iterator[Finding]:
    """A file is written to the default DVC remote, read back and removed."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(str(place.root))
    except DvcException as error:
        yield Finding("remote", "wrong", one_line(error), "`dvc init`, or clone the project")
        return
    name = repo.config["core"].get("remote")
    if not name:
        said = "none: another clone cannot get data, models and versions"
        yield Finding("remote", "warn", said, "`dvc remote add -d NAME URL`, a folder, s3:// or ssh://")
        return
    url = repo.config["remote"].get(name, {}).get("url", "")
    try:
        found = repo.cloud.get_remote(name)
        probe = found.fs.join(found.path, f"doctor-{uuid4().hex}")
        found.fs.makedirs(found.path, exist_ok=True)
        found.fs.pipe_file(probe, b"doctor")
        same = found.fs.cat_file(probe) == b"doctor"
        found.fs.rm_file(probe)
    except Exception as error:  # each kind of remote raises its own
        said = f"{name} ({url}) cannot be written: {type(error).__name__}: {one_line(error)}"
        yield Finding("remote", "wrong", said, "mend address, rights or credentials: `dvc remote modify --local`")
        return
    finally:
        repo.close()
    if same:
        yield Finding("remote", "ok", f"{name} ({url}) takes and gives files")
    else:
        yield Finding("remote", "wrong", f"{name} ({url}) gives back other bytes than it took", "do not use it")


def locks(place: Place) -> Iterator[Finding]:
    """Entries in DVC's read-write lock whose process is gone, and half-made deployments."""
    path = place.root / ".dvc" / "tmp" / "rwlock"
    entries: dict[str, object] = {}
    try:
        with suppress(FileNotFoundError):
            entries = json.loads(path.read_text() or "{}")
    except ValueError:
        yield Finding("locks", "warn", f"{path} is damaged, as a full disk leaves it", f"remove {path}")
        return
    pids = set(_pids(entries))
    dead = sorted(pid for pid in pids if not psutil.pid_exists(pid))
    if dead:
        said = f"{path} names processes that are gone: {', '.join(map(str, dead))}"
        yield Finding("locks", "warn", said, "nothing to do: the next `dvc` or `tsumugi run` drops them")
    else:
        yield Finding("locks", "ok", f"{len(pids)} DVC processes hold files" if pids else "none held")
    for draft in sorted((place.serving / "versions").glob("*/.*.part")):
        said = f"{draft} is half of a deployment"
        yield Finding("locks", "warn", said, "if none is under way, deploy again: that clears it")


def _pids(entry: object) -> Iterator[int]:
    if isinstance(entry, dict):
        if isinstance(entry.get("pid"), int):
            yield entry["pid"]
        for each in entry.values():
            yield from _pids(each)
    elif isinstance(entry, list):
        for each in entry:
            yield from _pids(each)


def prefect(_: Place) -> Iterator[Finding]:
    """Whether the server answers and has a worker; else whether its port is free for one."""
    try:
        url = server.address()
    except processes.Unavailable as error:
        yield Finding("prefect", "wrong", str(error), "`make stop`, and start again")
        return
    if not server.answers(url):
        address = httpx.URL(url)
        with socket.socket() as probe:
            probe.settimeout(5)
            taken = probe.connect_ex((address.host, address.port or 80)) == 0
        if "PREFECT_API_URL" in os.environ:
            said = f"PREFECT_API_URL={url} does not answer"
            yield Finding("prefect", "wrong", said, "start that server, or unset PREFECT_API_URL")
        elif taken:
            said = f"port {address.port} is taken by another program"
            yield Finding("prefect", "wrong", said, "choose a free one: PORT=4300, or end that program")
        else:
            yield Finding("prefect", "warn", f"no server at {url}", "nothing to do: `make run` starts one")
        return
    yield Finding("prefect", "ok", f"a server answers at {url}")
    yield from _workers(url)


def _workers(url: str) -> Iterator[Finding]:
    with server.client(url) as client:
        pools = client.post("/work_pools/filter", json={}).raise_for_status().json()
    ready = [pool["name"] for pool in pools if pool["status"] == "READY"]
    stopped = [pool["name"] for pool in pools if pool["is_paused"]]
    if ready:
        yield Finding("worker", "ok", f"work pools with a worker: {', '.join(ready)}")
    else:
        known = ", ".join(pool["name"] for pool in pools) or "none"
        yield Finding("worker", "warn", f"no worker polls (work pools: {known})", "`make run` starts one")
    if stopped:
        remedy = f"`prefect work-pool resume {stopped[0]}`"
        yield Finding("worker", "warn", f"work pools that are paused: {', '.join(stopped)}", remedy)


def database(place: Place) -> Iterator[Finding]:
    """A table is made in the traffic database and dropped again."""
    from sqlalchemy import Column, Integer, MetaData, Table
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    url = traffic_tables.database(place.serving)
    shown = make_url(url).render_as_string(hide_password=True)
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        yield Finding("database", "ok", f"none yet: the server makes {shown}")
        return
    probe = Table(f"doctor_{uuid4().hex}", MetaData(), Column("number", Integer))
    engine = traffic_tables.connect(url)
    try:
        with engine.begin() as connection:
            probe.create(connection)
            probe.drop(connection)
    except SQLAlchemyError as error:
        reason = one_line(error)
        remedy = "start it, or mend TSUMUGI_DATABASE: postgresql+psycopg://USER:PASSWORD@HOST/NAME, or unset it"
        yield Finding("database", "wrong", f"{shown} cannot be written: {reason}", remedy)
    else:
        yield Finding("database", "ok", f"{shown} takes tables")
    finally:
        engine.dispose()


def serving(place: Place) -> Iterator[Finding]:
    """Every pointer is read, and every file that it names is hashed."""
    if not place.serving.exists():
        yield Finding("serving", "ok", f"nothing deployed yet in {place.serving}")
        return
    if not os.access(place.serving, os.W_OK):
        yield Finding("serving", "wrong", f"{place.serving} cannot be written", "`chown` it, or name another folder")
    for path in sorted(place.serving.glob("*.json")):
        try:
            found = pointer.read(path)
            for version in filter(None, (found.champion, found.challenger)):
                pointer.verify(version)
        except ValueError as error:
            remedy = f"`tsumugi deploy {path.stem} VERSION` brings its files again"
            yield Finding("serving", "wrong", str(error), remedy)
        else:
            trial = f", {found.challenger.version} on trial" if found.challenger else ""
            yield Finding("serving", "ok", f"{found.name}: {found.champion.version}{trial}, every file as deployed")
