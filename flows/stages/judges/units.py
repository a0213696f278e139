"""A model's main figure as the units that it is a mean or a ratio of, so that two models can be compared pair by pair.

The figures are those of the other judges. Classes are compared by name: two models may know different ones, and who
does not know a class has not recognised it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Shaped

from components.inference.server.served import Kind

CAPTION = "text"  # the field with a picture's caption
CANDIDATES = 100  # captions among which one is found
METRICS: dict[Kind, tuple[str, Literal["higher", "lower"]]] = {
    "classifier": ("accuracy", "higher"),
    "recogniser": ("word_error_rate", "lower"),
    "search": ("recall@1", "higher"),
    "decoder": ("bits_per_byte", "lower"),
}


@dataclass(frozen=True)
class Units:
    """sum(numerators) / sum(denominators) is the figure; a unit a record."""

    numerators: Shaped[np.ndarray, " n"]
    denominators: Shaped[np.ndarray, " n"]


def units(kind: Kind, model: Any, records: list[dict[str, Any]], classes: Sequence[str]) -> Units:
    """classes: what the numbers of the records' labels mean."""
    if kind == "classifier":
        guesses = [model.classes[best] for best in model.classify(records).argmax(1)]
        right = np.array([guess == classes[record["label"]] for guess, record in zip(guesses, records, strict=True)])
        return Units(right.astype(float), np.ones(len(right)))
    if kind == "recogniser":
        from components.evaluation.metrics import word_errors

        return Units(*word_errors([record["text"] for record in records], model.transcribe(records)))
    if kind == "search":
        from flows.stages.judges.retrieval import found

        chances = found(model, records, CAPTION, CANDIDATES)
        return Units(chances, np.ones(len(chances)))
    from flows.stages.judges.language import bits

    return Units(*bits(model, [record["text"] for record in records]))
