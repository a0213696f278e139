"""Whether measurements bear a claim out: paired figures, their interval, and a verdict.

A figure is taken once a round or a seed, from two sides that share it (the same seed, the same minute of the machine):
what differs from pair to pair is noise, and Student's interval of the mean says how much of it is left. A claim holds
only where the whole interval lies on its side of the threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from components.evaluation.bootstrap import Interval, over_seeds

Number = int | float
Verdict = Literal["holds", "does not hold here", "undecided here", "needs a GPU", "not measured"]


@dataclass(frozen=True)
class Finding:
    """One line of the table of verdicts."""

    claim: str
    figure: str  # what was measured, with its unit
    wanted: str  # the threshold, in words
    interval: Interval | None  # of the figure, 95%; None where it needs a GPU or was not measured
    verdict: Verdict
    stage: str  # the one that shows it
    unit: str = ""


def mean(figures: Sequence[Number], ratio: bool = False) -> Interval:
    """The mean of paired figures with Student's 95% interval; of ratios the geometric one.

    ValueError for fewer than two: nothing says how far another would lie."""
    if len(figures) < 2:
        raise ValueError(f"{len(figures)} figure gives no interval: measure two rounds or seeds at least")
    values = np.log(figures) if ratio else np.asarray(figures, float)
    found = over_seeds(values.tolist())
    if not ratio:
        return found
    return Interval(*(float(np.exp(each)) for each in (found.value, found.low, found.high)))


def judge(interval: Interval, low: Number = -np.inf, high: Number = np.inf) -> Verdict:
    """Does the figure lie between `low` and `high`? Undecided where the interval crosses either."""
    if interval.low > low and interval.high < high:
        return "holds"
    if interval.high < low or interval.low > high:
        return "does not hold here"
    return "undecided here"


def slope(xs: Sequence[Number], ys: Sequence[Number]) -> float:
    """Exponent p of y ~ x^p: least squares of the logarithms."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])
