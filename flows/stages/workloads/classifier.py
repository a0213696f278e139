"""A classifier at work: a request is one text or picture, from the record to the probabilities."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from components.evaluation.metrics import hits

METRIC, BETTER = "accuracy", "higher"
PART = "model"  # of what is served, which a variant replaces
ITEMS = "records"


def requests(served: Any, records: Sequence[dict[str, Any]], count: int) -> list[Callable[[], object]]:
    return [partial(served.classify, [record]) for record in records[:count]]


def batch(served: Any, records: Sequence[dict[str, Any]], size: int) -> tuple[Callable[[], object], int]:
    """A batch, and how many items it answers."""
    some = records[:size]
    return partial(served.classify, some), len(some)


def quality(served: Any, records: Sequence[dict[str, Any]]) -> float:
    labels = np.array([record["label"] for record in records])
    return float(hits(served.classify(records), labels).mean())
