"""One server over a small model of each kind, for the tests that only ask it; one a test, whose pointer changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.models import deploy, everything, towers, version
from components.inference import pointer
from components.inference.server.settings import Limits, Settings
from tests.components.inference.server.small import serve


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `serving`, `models` and `pictures`; tests that change pointers copy the first."""
    root = tmp_path_factory.mktemp("small")
    everything(root)
    return root


@pytest.fixture(scope="session")
def unlimited() -> Limits:
    return Limits(rate=1e6, burst=1e6)


@pytest.fixture(scope="session")
def server(small: Path, unlimited: Limits) -> Iterator[Any]:
    settings = Settings(small / "serving", pictures=small / "pictures", limits=unlimited, poll=0.05)
    with serve(settings) as server:
        yield server


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[pointer.Version]:
    """Three of the towers, with different weights."""
    root = tmp_path_factory.mktemp("versions")
    return [version(towers(root / f"v{i}", seed=i), f"v{i}") for i in (1, 2, 3)]


@pytest.fixture
def changing(versions: list[pointer.Version], tmp_path: Path, unlimited: Limits) -> Iterator[Any]:
    """A server over the first of them that looks at its pointer, in `serving`, all the time."""
    deploy(tmp_path / "serving", "search", versions[0])
    with serve(Settings(tmp_path / "serving", limits=unlimited, poll=0.02)) as server:
        server.serving = tmp_path / "serving"
        yield server
