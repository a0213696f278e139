"""Whether a challenger may go on trial: one rule over what was measured, and each reason in words.

Passed, if on new data it gains (the whole interval above `gain`), on old data it forgets no more than `forget` (the
whole interval above -`forget`: too few records to know are a reason to refuse), no slice surely loses more than
`slice_loss`, and it is neither much slower nor much larger than the champion. Gains are turned so that more is better.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Interval as Within

from components.evaluation.bootstrap import Interval


@dataclass(frozen=True)
class Rule:
    """Gains and losses in the metric's unit."""

    gain: Annotated[float, Within(ge=0.0)] = 0.0  # on fresh records, that the interval lies above
    forget: Annotated[float, Within(ge=0.0)] = 0.02  # on frozen ones, that the interval does not reach
    slice_loss: Annotated[float, Within(ge=0.0)] = (
        0.05  # in a slice: refused where the loss is larger and the interval below 0
    )
    least: Annotated[int, Within(ge=2)] = 30  # records of a slice; smaller ones are shown and not judged
    slower: Annotated[float, Within(ge=1.0)] = 1.25  # times the champion's median latency
    larger: Annotated[float, Within(ge=1.0)] = 1.25  # times the champion's bytes


@dataclass(frozen=True)
class Slice:
    gain: Interval
    count: int  # records


def refusals(
    rule: Rule,
    fresh: Interval,
    frozen: Interval,
    slices: Mapping[str, Slice],
    slower: float,
    larger: float,
) -> list[str]:
    """Why not; empty where the challenger passes. slower, larger: ratios to the champion."""
    reasons = []
    if not fresh.low > rule.gain:
        reasons.append(f"no sure gain on new data: {_told(fresh)}, and the interval must lie above {rule.gain:g}")
    if not frozen.low > -rule.forget:
        reasons.append(f"forgets: on old data {_told(frozen)}, and the interval must stay above {-rule.forget:g}")
    for name, each in slices.items():
        if each.count >= rule.least and each.gain.value < -rule.slice_loss and each.gain.high < 0:
            reasons.append(f"loses in the slice {name}: {_told(each.gain)}, more than {rule.slice_loss:g}")
    if slower > rule.slower:
        reasons.append(f"slower: {slower:.2f} times the champion's latency, more than {rule.slower:g}")
    if larger > rule.larger:
        reasons.append(f"larger: {larger:.2f} times the champion's size, more than {rule.larger:g}")
    return reasons


def _told(gain: Interval) -> str:
    return f"{gain.value:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
