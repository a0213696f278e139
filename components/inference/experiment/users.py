"""From what was logged to one value a user: the unit of an experiment, for it is users who are assigned to an arm.

What one user does again and again is alike; counted request by request, ten of one user would pass for ten users, and
an A/A test for a discovery. So a user's value is the mean of that user's outcomes, at the place of the first one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from components.inference.experiment.config import ARMS, Arm


@runtime_checkable
class Log(Protocol):
    """What was logged of one arm, in order of time."""

    @property
    def users(self) -> np.ndarray: ...  # [n] names

    @property
    def values(self) -> np.ndarray: ...  # [n]

    @property
    def times(self) -> np.ndarray: ...  # [n] s since 1970


@dataclass(frozen=True)
class Observed:
    """An experiment as it stands at one look."""

    users: Mapping[Arm, int]  # seen in each arm, with an outcome or not
    values: Mapping[str, Mapping[Arm, np.ndarray]]  # metric -> one value a user, by the time of the first
    seconds: float  # since the first user
    crossed: int = 0  # users who were in both arms, and are left out


def observe(seen: Mapping[str, Log], outcomes: Mapping[str, Mapping[str, Log]], until: float = np.inf) -> Observed:
    """An experiment at the time `until` (s since 1970), with what was logged up to then.

    Args:
        seen: by arm, every request of a user who is in the experiment; its values are not read.
        outcomes: by metric and arm; an arm without outcomes may be missing.

    Raises:
        ValueError: an arm that is neither champion nor challenger, or a value that is not a number.
    """
    logs = {"requests": seen, **outcomes}
    for name, arms in logs.items():
        if unknown := sorted(set(arms) - set(ARMS)):
            raise ValueError(f"{name}: unknown arm {', '.join(unknown)}: known are {', '.join(ARMS)}")
    sets = {arm: {user for log in logs.values() if arm in log for user in _until(log[arm], until)[0]} for arm in ARMS}
    crossed = sets["champion"] & sets["challenger"]
    values: dict[str, Mapping[Arm, np.ndarray]] = {
        metric: {arm: _by_user(metric, arms.get(arm), until, crossed) for arm in ARMS}
        for metric, arms in outcomes.items()
    }
    times = [time for log in seen.values() for time in (log.times.min(initial=np.inf), _last(log, until))]
    seconds = max(0.0, float(max(times, default=0.0) - min(times, default=0.0)))
    return Observed({arm: len(sets[arm] - crossed) for arm in ARMS}, values, seconds, len(crossed))


def _last(log: Log, until: float) -> float:
    return log.times[log.times <= until].max(initial=-np.inf)


def _until(log: Log, until: float) -> tuple[np.ndarray, np.ndarray]:
    """Users and values up to that time, the earliest first."""
    order = np.argsort(log.times, kind="stable")
    order = order[log.times[order] <= until]
    return log.users[order], log.values[order].astype(float)


def _by_user(metric: str, log: Log | None, until: float, crossed: set[str]) -> np.ndarray:
    if log is None:
        return np.zeros(0)
    users, values = _until(log, until)
    if not np.isfinite(values).all():
        raise ValueError(
            f"metric {metric}: {(~np.isfinite(values)).sum()} of {len(values)} values are not finite: leave them out"
        )
    names, first, which = np.unique(users, return_index=True, return_inverse=True)
    means = np.bincount(which, values, len(names)) / np.bincount(which, minlength=len(names))
    order = np.argsort(first)
    return means[order][~np.isin(names[order], list(crossed))]
