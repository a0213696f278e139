"""DVC's objects of single stages, read and recorded without parsing the same YAML for each step of each stage.

To load one stage DVC reads and validates the whole dvc.yaml and dvc.lock, and to record one it parses dvc.lock again
with the slow parser that keeps comments: with twenty stages a third of a run's time, and a quarter of what was left.
Here the parsed files are kept for as long as neither they nor the parameter files that they interpolate have changed,
whoever changed them; what this process writes to dvc.lock is noted in the kept one as well.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dvc.dvcfile import PROJECT_FILE, ProjectFile, SingleStageFile
from dvc.repo import Repo
from dvc.stage import PipelineStage, Stage
from dvc.stage.serialize import to_single_stage_lockfile
from dvc.utils import parse_target
from dvc.utils.serialize import dump_yaml, parse_yaml_for_update

Signature = tuple[tuple[int, int, int] | None, ...]


@dataclass
class Kept:
    """A dvc.yaml as it was parsed, with its dvc.lock."""

    file: ProjectFile
    signature: Signature
    lock: dict[str, Any] | None = None  # dvc.lock with its comments, once this process has written it

    def sign(self) -> Signature:
        """Identity, time and size of all files behind the definitions."""
        return tuple(
            _identity(path) for path in (self.file.path, lock_path(self.file), *self.file.resolver.context.imports)
        )


class Definitions:
    """The stages of one repository; to be used under its lock, in its root."""

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._kept: dict[str, Kept] = {}

    def load(self, name: str) -> Stage:
        """A new object of the stage, with the hashes that dvc.lock holds now."""
        path, stage = parse_target(name)
        if stage is None:  # a .dvc file
            (single,) = self._repo.stage.collect(name)
            return single
        path = os.path.abspath(path or PROJECT_FILE)
        kept = self._kept.get(path)
        if kept is None or kept.signature != kept.sign():
            kept = Kept(ProjectFile(self._repo, path), ())
            kept.signature = kept.sign()
            self._kept[path] = kept
        return kept.file.stages[stage]

    def write(self, stage: Stage) -> None:
        """Record what the stage is now, in dvc.lock or its .dvc file, to the byte as DVC would write it.

        A new file takes the place of the old one: a full disk or a kill leaves the old one whole.
        """
        if not isinstance(stage, PipelineStage):
            self._replace(stage.path, lambda draft: SingleStageFile(self._repo, draft, verify=False).dump(stage))
            return
        kept = self._kept.get(stage.path)
        if kept and kept.signature != kept.sign():
            kept = None  # others have changed the files: load() will read them again
        document = self._document(stage, kept)
        self._replace(lock_path(stage.dvcfile), lambda draft: dump_yaml(draft, document))  # pyright: ignore
        if kept:
            kept.file.stages._lockfile_data[stage.name] = document["stages"][stage.name]
            kept.lock, kept.signature = document, kept.sign()

    def _document(self, stage: PipelineStage, kept: Kept | None) -> dict[str, Any]:
        """All that dvc.lock is to hold, as DVC's `Lockfile.dump` puts it together."""
        document = None
        if kept:
            document, kept.lock = kept.lock, None  # it is the file's again when it has been written
        document = document or _parse(lock_path(stage.dvcfile)) or {"schema": "2.0"}  # pyright: ignore
        document.setdefault("stages", {})[stage.name] = to_single_stage_lockfile(stage)
        return document

    def _replace(self, target: str, write: Callable[[str], None]) -> None:
        draft = os.path.join(self._repo.tmp_dir, f"{os.path.basename(target)}.draft")  # pyright: ignore
        try:
            write(draft)
            with suppress(FileNotFoundError):  # there is none yet
                shutil.copymode(target, draft)
            with open(draft, "rb+") as written:
                os.fsync(written.fileno())
            os.replace(draft, target)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(draft)
        self._repo.scm_context.files_to_track.discard(os.path.relpath(draft))
        self._repo.scm_context.track_file(os.path.relpath(target))


def lock_path(file: ProjectFile) -> str:
    """The dvc.lock beside a dvc.yaml."""
    return file._lockfile.path


def _identity(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _parse(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return parse_yaml_for_update(file.read(), path)
    except FileNotFoundError:
        return {}
