"""Whether a champion's outcomes fall: those of its first window against each later one, once it is full.

A user counts once in a window, with the mean of that user's outcomes, by ranks (Mann & Whitney 1947), for waiting times
have long tails. The chance of a false alarm is spent over the windows as 6 / (pi k)^2, which sums to 1: looking for
years raises it no further. A decline needs both, a fall that surely happened and one of the size that the metric calls
an effect.
"""

import math
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu
from sqlalchemy import func, select

from components.inference.experiment.config import Metric
from components.inference.traffic import Traffic
from components.inference.traffic_tables import outcomes, requests

ALPHA = 0.01  # over all windows
Outcome = tuple[str, float]  # user, value


def spent(alpha: float, window: int) -> float:
    """The part of alpha that the window of this number (1 and up) may use."""
    return alpha * 6 / (math.pi * window) ** 2


def look(traffic: Traffic, name: str, version: str, metric: Metric, window: int) -> dict[str, Any] | None:
    """The fall, if there is one in the last full window: then and now, and its p-value."""
    full, first, last = windows(traffic, name, version, metric.name, window)
    if full < 1:
        return None
    then, now = _by_user(first), _by_user(last)
    fall = metric.sign * (then.mean() - now.mean())
    if fall < metric.effect:
        return None
    p = float(mannwhitneyu(metric.sign * now, metric.sign * then, alternative="less").pvalue)
    if not p < spent(ALPHA, full):
        return None
    means = {"then": float(then.mean()), "now": float(now.mean())}
    return {"metric": metric.name, "version": version, "window": full, **means, "p": p}


def windows(
    traffic: Traffic, name: str, version: str, metric: str, window: int
) -> tuple[int, list[Outcome], list[Outcome]]:
    """How many windows of a version's outcomes are full after the first one; the first, and the last full one, in order
    of time. The others are not read."""
    of = (requests.c.name == name) & (requests.c.version == version) & (outcomes.c.metric == metric)
    both = outcomes.join(requests, requests.c.id == outcomes.c.request)
    query = select(requests.c.user, outcomes.c.value).select_from(both).where(of)
    query = query.order_by(outcomes.c.time, outcomes.c.number).limit(window)
    with traffic.engine.connect() as connection:
        count = connection.scalar(select(func.count()).select_from(both).where(of)) or 0
        full = count // window - 1
        if full < 1:
            return full, [], []
        first, last = (
            [(user, value) for user, value in connection.execute(query.offset(start))] for start in (0, full * window)
        )
        return full, first, last


def _by_user(rows: list[Outcome]) -> np.ndarray:
    """float64 [users]: means."""
    users, values = zip(*rows, strict=True)
    _, which = np.unique(users, return_inverse=True)
    return np.bincount(which, values) / np.bincount(which)
