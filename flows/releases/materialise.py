"""A model version's files, brought by hash from the DVC cache or remote into the serving folder, and checked.

Only dvc.lock at the version's commit is asked what the files are: no work tree is touched, so a deployment never
disturbs a person's checkout or a run in it. What was read is hashed on its way: MD5 as dvc.lock has it, SHA-256 for the
server. `<serving>/versions/NAME/VERSION` appears whole by one rename or not at all.
"""

import hashlib
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any

from components.durable import sync, write_whole
from components.inference import pointer
from components.inference.pointer import Version
from flows.processes import alone
from flows.releases import recorded, registry
from flows.workspace import Refused

MANIFEST = "manifest.json"
BLOCK = 2**20  # bytes


class Damaged(ValueError):
    """An object that does not have the hash under which it was kept."""


def materialise(repo: Path, name: str, version: str, serving: Path, log: Callable[[str], None] = print) -> Version:
    """Bring a version's files to `<serving>/versions/NAME/VERSION` with a manifest; checked again where they are there.

    Safe to repeat and to be killed; of two at once one does the work. Waits for DVC's lock, saying so to `log`.

    Raises:
        Refused: no such version, its files are neither in the cache nor on the remote, or do not have their hashes.
    """
    found = recorded.read(repo, registry.commit_of(repo, name, version))
    path, digest = registry.model(found, name)
    target = serving.resolve() / "versions" / name / version
    with alone(target.parent / ".lock"):
        ready = _ready(target, found.commit, digest)
        if ready:
            return ready
        _sweep(target.parent)
        draft = target.with_name(f".{version}.part")
        try:
            with closing(Objects(repo, log)) as objects:
                files = _copy_all(objects, objects.listing(path, digest), draft)
                about = _about(objects, found, path)
            manifest = {
                "name": name,
                "version": version,
                "commit": found.commit,
                "path": path,
                "md5": digest,
                "files": files,
            }
            manifest |= about
            write_whole(draft / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
            if target.exists():  # it was there and is damaged; who has it open keeps it
                target.rename(target.with_name(f".{version}.bad.part"))
            draft.rename(target)
            sync(target.parent)
        except (OSError, sqlite3.Error) as error:  # a full disk, no right to write; DVC's index is in SQLite
            reason = getattr(error, "strerror", None) or error
            raise Refused(
                f"{target} was not written: {reason}: free space or mend rights, nothing was changed"
            ) from error
        finally:
            _sweep(target.parent)
    return _version(target, manifest)


def _ready(target: Path, commit: str, digest: str) -> Version | None:
    """The version that lies there, if it is the wanted one and every file has its hash."""
    try:
        manifest = json.loads((target / MANIFEST).read_text())
        version = _version(target, manifest)
        pointer.verify(version)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return version if (manifest["commit"], manifest["md5"]) == (commit, digest) else None


def _version(folder: Path, manifest: dict[str, Any]) -> Version:
    files = {name: file["sha256"] for name, file in manifest["files"].items()}
    return Version(manifest["version"], manifest["commit"], folder, files)


def _sweep(folder: Path) -> None:
    """What a killed deployment left: nobody else is at work, because we hold the lock."""
    for draft in folder.glob(".*.part"):
        shutil.rmtree(draft)


def _copy_all(objects: "Objects", listing: dict[str, str], folder: Path) -> dict[str, dict[str, Any]]:
    objects.bring(listing.values())
    files = {}
    for name, digest in listing.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        files[name] = {"sha256": objects.copy(name, digest, target), "md5": digest, "size": target.stat().st_size}
    return files


def _about(objects: "Objects", found: recorded.Recorded, path: str) -> dict[str, Any]:
    """Parameters and metrics of the step that made the model; metrics are null where nobody has kept them."""
    step = found.chain(path)[-1]
    metrics = None
    for out in step.outputs:
        if PurePosixPath(out.path).name == "metrics.json" and objects.bring([out.hash]):
            metrics = json.loads(objects.content(out.path, out.hash))
    return {"stage": step.name, "params": step.params, "metrics": metrics}


class Objects:
    """What a DVC repository keeps by hash: in its cache, else on its default remote."""

    def __init__(self, root: Path, log: Callable[[str], None]) -> None:
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        from flows.graph import one_line
        from flows.locks import Locks

        logging.getLogger("dvc").setLevel(logging.ERROR)  # what is missing is told below
        try:
            self._repo = Repo(str(root))
        except DvcException as error:
            raise Refused(f"{root} is no DVC repository: {one_line(error)}") from error
        self._locks = Locks(self._repo, log)
        self._remote = self._repo.config["core"].get("remote")

    def close(self) -> None:
        """Let go of DVC's databases."""
        self._repo.close()

    def path(self, digest: str) -> Path:
        """Where the cache has, or would have, an object."""
        return Path(self._repo.cache.local.oid_to_path(digest))

    def bring(self, digests: Iterable[str]) -> bool:
        """Fetch into the cache what it does not hold; whether it holds all of them then.

        Raises:
            Refused: the remote cannot be asked.
        """
        from dvc_data.hashfile.hash_info import HashInfo

        from flows.graph import one_line

        digests = set(digests)
        missing = [HashInfo("md5", digest) for digest in digests if not self.path(digest).exists()]
        if missing and self._remote:
            try:
                self._locks.locked(lambda: self._repo.cloud.pull(missing))
            except Exception as error:  # each kind of remote raises its own
                where = self._repo.config["remote"].get(self._remote, {}).get("url", "not configured")
                reason = f"{type(error).__name__}: {one_line(error)}"
                raise Refused(f"the remote {self._remote} ({where}) gave nothing: {reason}") from error
        return all(self.path(digest).exists() for digest in digests)

    def listing(self, path: str, digest: str) -> dict[str, str]:
        """The files of an output: path in it -> MD5. A single file is a listing of its own name.

        Raises:
            Refused: it is nowhere, is damaged, or names a file outside.
        """
        if not digest.endswith(".dir"):
            return {PurePosixPath(path).name: digest}
        listing = {entry["relpath"]: entry["md5"] for entry in json.loads(self.content(path, digest))}
        for name in listing:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or name == MANIFEST:
                raise Refused(f"{path}: {name!r} cannot be the name of a served file")
        return listing

    def content(self, name: str, digest: str) -> bytes:
        """A small object. Refused where it is nowhere or damaged."""
        return self._checked(name, digest, lambda: self._read(name, digest))

    def copy(self, name: str, digest: str, target: Path) -> str:
        """Copy an object and sync it; its SHA-256. Refused where it is nowhere or damaged."""
        return self._checked(name, digest, lambda: self._copy(name, digest, target))

    def _checked(self, name: str, digest: str, read: Callable[[], Any]) -> Any:
        """Once more from the remote where the cache's own object is damaged."""
        damaged = None
        for _ in range(2):
            if not self.bring([digest]):
                place = f"nor on the remote {self._remote}" if self._remote else "and there is no default remote"
                found = f"{damaged}; whole it" if damaged else f"{name} ({digest})"
                raise Refused(f"{found} is not in the DVC cache {place}: `dvc push` where it was made")
            try:
                return read()
            except Damaged as error:
                damaged = error
                self.path(digest).unlink()  # no file has this content under this name: nobody's data is lost
        raise Refused(f"{damaged}, on the remote {self._remote} too: `dvc push` it again where it is whole")

    def _read(self, name: str, digest: str) -> bytes:
        content = self.path(digest).read_bytes()
        _check(name, digest, hashlib.md5(content, usedforsecurity=False).hexdigest())
        return content

    def _copy(self, name: str, digest: str, target: Path) -> str:
        md5, sha256 = hashlib.md5(usedforsecurity=False), hashlib.sha256()
        with self.path(digest).open("rb") as source, target.open("wb") as file:
            while block := source.read(BLOCK):
                md5.update(block)
                sha256.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        _check(name, digest, md5.hexdigest())
        return sha256.hexdigest()


def _check(name: str, expected: str, found: str) -> None:
    if found != expected.removesuffix(".dir"):
        raise Damaged(f"{name} is damaged: dvc.lock has MD5 {expected}, found {found}")
