"""Where a result was measured: it stands beside the figures in every file under benchmarks/results/."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def environment(*packages: str) -> dict[str, str | int]:
    """The machine, the day, and the versions of Python and of these packages."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    } | {package: version(package) for package in packages}
