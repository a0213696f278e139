"""One server over a small model of each kind, for the tests that only ask it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.models import everything
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
