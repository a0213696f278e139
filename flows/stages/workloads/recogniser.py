"""A recogniser at work: a request is one sound, from the file's bytes to what is said."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from components.evaluation.metrics import word_errors

METRIC, BETTER = "word_error_rate", "lower"
PART = "model"  # of what is served, which a variant replaces
ITEMS = "sounds"


def requests(served: Any, records: Sequence[dict[str, Any]], count: int) -> list[Callable[[], object]]:
    if served.head != "ctc":
        raise ValueError(f"head {served.head} names sounds and writes nothing down: give a model with head ctc")
    return [partial(served.transcribe, [record]) for record in records[:count]]


def batch(served: Any, records: Sequence[dict[str, Any]], size: int) -> tuple[Callable[[], object], int]:
    """A batch, and how many items it answers."""
    some = records[:size]
    return partial(served.transcribe, some), len(some)


def quality(served: Any, records: Sequence[dict[str, Any]]) -> float:
    errors, words = word_errors([record["text"] for record in records], served.transcribe(records))
    return float(errors.sum() / words.sum())
