"""One Prefect server for the whole session, and DVC repositories made of a few files."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows import circle
from tests.flows.released import build
from tests.flows.tools import Make, commit, free_port, git

DVC = {
    ".dvc/config": "[core]\n    analytics = false\n    autostage = false\n    site_cache_dir = {site}\n",
    ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
    ".dvcignore": "",
}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a real server on a free port, its settings those of this process."""
    from flows import processes, server

    before = dict(os.environ)
    os.environ.pop("PREFECT_API_URL", None)
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    os.environ["PREFECT_LOGGING_TO_API_BATCH_INTERVAL"] = "0.5"
    try:
        yield server.ensure_server(free_port(), lambda line: None)
    finally:
        processes.stop("server")
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository with one commit and no stage, to be copied."""
    root = tmp_path_factory.mktemp("blank")
    site = tmp_path_factory.mktemp("site")
    for name, text in DVC.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.format(site=site))
    git(root, "init", "-q")
    git(root, "config", "user.name", "test")
    git(root, "config", "user.email", "test@example.org")
    commit(root)
    return root


@pytest.fixture
def make(tmp_path: Path, blank: Path) -> Make:
    """make(files, name) -> a DVC repository with these files, under tmp_path/name."""

    def make(files: dict[str, str], name: str = "project") -> Path:
        root = tmp_path / name
        shutil.copytree(blank, root)
        for path, text in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        commit(root)
        return root

    return make


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Path:
    """Three commits of a model and its pipeline (tests/flows/released.py), to be copied."""
    root = tmp_path_factory.mktemp("template") / "project"
    shutil.copytree(blank, root)
    build(root)
    return root


@pytest.fixture
def project(tmp_path: Path, template: Path) -> Path:
    """A repository whose commits `first`, `second` and `third` (git tags) each hold another model."""
    root = tmp_path / "project"
    shutil.copytree(template, root)
    return root


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Path:
    """The repository of tests/flows/circle.py, with its first version deployed."""
    root = tmp_path_factory.mktemp("deployed") / "project"
    shutil.copytree(blank, root)
    circle.build(root)
    return root


@pytest.fixture
def root(tmp_path: Path, deployed: Path) -> Path:
    """A copy of `deployed`, whose pointer names its own files."""
    root = tmp_path / "project"
    shutil.copytree(deployed, root, symlinks=True)
    path = circle.serving(root) / f"{circle.NAME}.json"
    path.write_text(path.read_text().replace(str(deployed), str(root)))
    return root
