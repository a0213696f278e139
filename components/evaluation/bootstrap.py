"""Percentile bootstrap intervals (Efron 1979; Efron & Tibshirani 1993, chapter 13), seeded and vectorised.

Means and ratios are one case: a ratio of sums over units that are drawn whole. A unit is what was sampled
independently: an answer for accuracy, an utterance for word error rate (errors / words), a text for bits per byte
(bits / bytes).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

CONFIDENCE = 0.95
CHUNK = 4_000_000  # unit numbers drawn at once: 32 MB


@dataclass(frozen=True)
class Interval:
    value: float
    low: float
    high: float


def bootstrap(
    numerators: Shaped[np.ndarray, " n"],
    denominators: Shaped[np.ndarray, " n"] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> Interval:
    """sum(numerators) / sum(denominators) with its 95% interval; without denominators, the mean.

    ValueError when there is no unit, or the denominators sum to 0."""
    numerators = np.asarray(numerators, np.float64)
    denominators = np.ones_like(numerators) if denominators is None else np.asarray(denominators, np.float64)
    if not denominators.sum() > 0:
        raise ValueError(f"no figure over {len(numerators)} units with a denominator of 0: is the test split empty?")
    rng = np.random.default_rng(seed)
    ratios = []
    for start in range(0, samples, rows := max(1, CHUNK // len(numerators))):
        drawn = rng.integers(len(numerators), size=(min(rows, samples - start), len(numerators)))
        ratios.append(numerators[drawn].sum(1) / np.maximum(denominators[drawn].sum(1), np.finfo(float).tiny))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(ratios), [tail, 1 - tail])
    return Interval(float(numerators.sum() / denominators.sum()), float(low), float(high))


def over_seeds(values: list[float]) -> Interval:
    """Mean over runs that differ in their seed, with Student's 95% interval: what another seed may give.

    It says nothing about another test split: that is what `bootstrap` measures."""
    from scipy.stats import t

    mean = float(np.mean(values))
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return Interval(mean, mean - half, mean + half)
