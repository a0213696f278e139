"""A PostgreSQL server of a test's own, which the test may stop and start; skipped where the machine has none."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER = "postgres"  # PostgreSQL refuses to run as root


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs: as pg_config says, or on PATH, or where Debian keeps them (newest first)."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    if found := shutil.which("initdb"):
        places.insert(0, Path(found).resolve().parent)
    if found := shutil.which("pg_config"):
        said = subprocess.run([found, "--bindir"], capture_output=True, text=True, check=True).stdout
        places.insert(0, Path(said.strip()))
    return next((place for place in places if (place / "initdb").exists()), None)


class Postgres:
    """A throw-away cluster on a free port of loopback, without durability."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder / "cluster", programs
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/postgres"
        self.root = os.getuid() == 0
        if self.root:
            shutil.chown(folder, USER)
        self.run("initdb", "--no-sync", "-A", "trust", "-U", USER, "-D", self.folder)

    def run(self, program: str, *arguments: object) -> None:
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if self.root else []
        command = [*user, self.programs / program, *arguments]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        self.run("pg_ctl", "start", "-w", "-D", self.folder, "-l", self.folder / "log", "-o", options)

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self.folder)


@contextmanager
def cluster() -> Iterator[Postgres]:
    """A running one. It is not below pytest's folder, which nobody but its owner may enter."""
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL: neither pg_config nor PATH leads to initdb")
    with tempfile.TemporaryDirectory() as folder:
        postgres = Postgres(Path(folder), programs)
        postgres.start()
        try:
            yield postgres
        finally:
            postgres.stop()
