"""What is compared of texts: lengths, and how rare their words and characters are. Free of torch, for flows use it.

How rare a word is, one half of the reference says, and only the other half is compared with the new texts: texts are
never unusual among their own words, and equal populations would seem to differ.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from components.evaluation.drift import Shift, numbers

# one word, or one character where no space divides words
WORD = re.compile(r"[\u3041-\u30ff\u3400-\u9fff々]|[^\W\u3041-\u30ff\u3400-\u9fff々]+")


def pieces(reference: Sequence[str], new: Sequence[str]) -> dict[str, tuple[NDArray, NDArray]]:
    """Feature -> its values in both sets; the reference's order must say nothing (shuffle it)."""
    half = len(reference) // 2
    known, compared = reference[:half], reference[half:]
    found = {}
    for name, measure in {
        "characters": len,
        "words": lambda text: len(WORD.findall(text)),
        "rarity of words, bits": _rarity(known, lambda text: WORD.findall(text.lower())),
        "rarity of characters, bits": _rarity(known, lambda text: text),
    }.items():
        found[name] = tuple(np.array([measure(text) for text in side], float) for side in (compared, new))
    return found


def shifts(reference: Sequence[str], new: Sequence[str]) -> list[Shift]:
    """Not judged yet."""
    return [numbers(name, *sides) for name, sides in pieces(reference, new).items()]


def _rarity(known: Iterable[str], cut: Callable[[str], Sequence[str]]) -> Callable[[str], float]:
    """Mean bits of a text's parts, by their frequency in the known texts; one is added to each count (Laplace)."""
    counts = Counter(part for text in known for part in cut(text))
    total = counts.total() + len(counts) + 1

    def measure(text: str) -> float:
        parts = cut(text)
        return sum(math.log2(total / (1 + counts[part])) for part in parts) / max(1, len(parts))

    return measure
