"""What to do with the challenger, from what is known at this look; may be asked at any time, as often as one likes.

    stop      the split is broken, a guardrail is broken, or a primary metric is worse: at any time, and at once
    promote   a primary metric is better, none is worse, every guardrail is held, and enough users and time were seen
    keep      no gain that matters is left to find, or the end has come without a reason to promote
    continue  none of these yet

A false promotion or stop on the primary metrics has a chance of alpha at most over the whole experiment, by Bonferroni
over the metrics; a guardrail's false alarm one of alpha over all of them; the split's one of sample_ratio.ALARM.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from components.inference.experiment import means, rates, sample_ratio
from components.inference.experiment.config import ARMS, Design, Metric
from components.inference.experiment.evidence import Evidence
from components.inference.experiment.users import Observed

Decision = Literal["promote", "keep", "stop", "continue"]
State = Literal["better", "worse", "no gain that matters", "held", "broken", "open"]


@dataclass(frozen=True)
class Estimate:
    """One metric at one look; differences are challenger - champion, in the metric's unit."""

    metric: str
    role: Literal["primary", "guardrail"]
    state: State
    champion: float  # mean over users; not a number before the first
    challenger: float
    champion_users: int  # with an outcome
    challenger_users: int
    difference: float  # between means over users; a rate's interval is around that of its blocks (rates.py)
    low: float  # holds at every look; one-sided at alpha on either side for a guardrail
    high: float
    confidence: float  # of the interval, two-sided
    p: float  # always valid: of "no difference" (primary), of "not worse by more than the margin" (guardrail)


@dataclass(frozen=True)
class Verdict:
    decision: Decision
    reasons: tuple[str, ...]  # in words, what decided first
    estimates: tuple[Estimate, ...]
    champion_users: int
    challenger_users: int
    sample_ratio_p: float
    seconds: float  # since the first user


def verdict(design: Design, observed: Observed) -> Verdict:
    """Judge an experiment.

    Raises:
        ValueError: a metric of the design of which nothing is given, or a value that its kind does not allow.
    """
    if missing := [each.name for each in design.primary + design.guardrails if each.name not in observed.values]:
        raise ValueError(
            f"experiment {design.experiment}: no outcomes of {', '.join(missing)}: give empty ones at least"
        )
    estimates = tuple(
        [_primary(metric, design, observed) for metric in design.primary]
        + [_guardrail(metric, design, observed) for metric in design.guardrails]
    )
    champion, challenger = (observed.users.get(arm, 0) for arm in ARMS)
    p = float(sample_ratio.p(champion, challenger, design.share))
    decision, reasons = _decide(design, observed, estimates, p)
    if observed.crossed:
        reasons.append(f"{observed.crossed:,} users were seen in both arms and are left out.")
    return Verdict(decision, tuple(reasons), estimates, champion, challenger, p, observed.seconds)


def _decide(
    design: Design, observed: Observed, estimates: tuple[Estimate, ...], p: float
) -> tuple[Decision, list[str]]:
    metrics = {metric.name: metric for metric in design.primary + design.guardrails}

    def told(*states: State) -> list[str]:
        return [sentence(each, metrics[each.metric]) for each in estimates if each.state in states]

    champion, challenger = (observed.users.get(arm, 0) for arm in ARMS)
    if p < sample_ratio.ALARM:
        return "stop", [
            f"The split is broken: {challenger:,} of {champion + challenger:,} users are challengers, "
            f"{challenger / (champion + challenger):.2%} where {design.share:.2%} were meant (p = {p:.2g}). "
            "No figure counts until that is mended."
        ]
    if bad := told("broken", "worse"):
        return "stop", bad
    ended = _ended(design, observed)
    waiting = _waiting(design, observed)
    gains, unsure = told("better"), [each for each in estimates if each.role == "guardrail" and each.state != "held"]
    if gains and not unsure and not waiting:
        return "promote", gains + told("held")
    if ended:
        return "keep", [ended, *(sentence(each, metrics[each.metric]) for each in estimates)]
    if not waiting and all(each.state == "no gain that matters" for each in estimates if each.role == "primary"):
        return "keep", told("no gain that matters")
    return "continue", [*waiting, *(sentence(each, metrics[each.metric]) for each in estimates)]


def _ended(design: Design, observed: Observed) -> str:
    users = sum(observed.users.values())
    if users >= design.most_users:
        return f"The end has come: {users:,} users of {design.most_users:,} were seen."
    if observed.seconds >= design.most_seconds:
        return f"The end has come: {duration(observed.seconds)} of {duration(design.most_seconds)} have passed."
    return ""


def _waiting(design: Design, observed: Observed) -> list[str]:
    """What must be seen before a promotion."""
    fewest = min(observed.users.get(arm, 0) for arm in ARMS)
    found = []
    if fewest < design.least_users:
        found.append(
            f"Too early to promote: {fewest:,} users in the smaller arm, {design.least_users:,} are asked for."
        )
    if observed.seconds < design.least_seconds:
        found.append(
            f"Too early to promote: {duration(observed.seconds)} have passed, "
            f"{duration(design.least_seconds)} are asked for."
        )
    return found


def _evidence(metric: Metric, design: Design, observed: Observed, side: float) -> Evidence:
    champion, challenger = (observed.values[metric.name][arm] for arm in ARMS)
    try:
        if metric.kind == "rate":
            found = rates.Rates(rates.mixture(metric, side, design.power, design.share), design.share)
        else:
            found = means.Means(means.mixture(metric, side, design.power))
        found.add(champion, challenger)
    except ValueError as error:
        raise ValueError(f"metric {metric.name}, {error}") from error
    return found.evidence()


def _primary(metric: Metric, design: Design, observed: Observed) -> Estimate:
    side = design.alpha / len(design.primary) / 2
    evidence = _evidence(metric, design, observed, side)
    interval, (worst, best) = _interval(metric, evidence, side)
    state: State = "open"
    if worst > 0:
        state = "better"
    elif best < 0:
        state = "worse"
    elif best < metric.effect:
        state = "no gain that matters"
    return _estimate(metric, "primary", state, observed, interval, side, float(evidence.p()))


def _guardrail(metric: Metric, design: Design, observed: Observed) -> Estimate:
    """Non-inferiority: held where the loss is surely within the margin, broken where it is surely beyond."""
    side = design.alpha / len(design.guardrails)
    evidence = _evidence(metric, design, observed, side)
    interval, (worst, best) = _interval(metric, evidence, side)
    state: State = "held" if worst > -metric.effect else "broken" if best < -metric.effect else "open"
    beyond = evidence.below(-metric.effect) if metric.sign > 0 else evidence.above(metric.effect)
    return _estimate(metric, "guardrail", state, observed, interval, side, float(np.exp(min(0.0, -float(beyond)))))


def _interval(metric: Metric, evidence: Evidence, side: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of the difference, and of the gain: the difference, turned so that more is better."""
    low, high = map(float, evidence.interval(side))
    return (low, high), (low, high) if metric.sign > 0 else (-high, -low)


def _estimate(
    metric: Metric,
    role: Literal["primary", "guardrail"],
    state: State,
    observed: Observed,
    interval: tuple[float, float],
    side: float,
    p: float,
) -> Estimate:
    champion, challenger = (observed.values[metric.name][arm] for arm in ARMS)
    ours, theirs = (float(values.mean()) if len(values) else float("nan") for values in (champion, challenger))
    return Estimate(
        metric.name,
        role,
        state,
        ours,
        theirs,
        len(champion),
        len(challenger),
        theirs - ours,
        *interval,
        1 - 2 * side,
        p,
    )


def sentence(estimate: Estimate, metric: Metric) -> str:
    """An estimate in words, with its figures."""
    name = metric.name.replace("_", " ")
    if not estimate.champion_users or not estimate.challenger_users:
        return f"{name}: no outcome of one arm yet."
    state = estimate.state + (f" (margin {figure(metric.effect, metric)})" if estimate.role == "guardrail" else "")
    return (
        f"{name}: {state}: {figure(estimate.challenger, metric)} against the champion's "
        f"{figure(estimate.champion, metric)}, a difference of {change(estimate.difference, metric)}, "
        f"between {change(estimate.low, metric)} and {change(estimate.high, metric)} "
        f"({estimate.confidence:.1%} at every look; {metric.better} is better; "
        f"{estimate.champion_users:,} and {estimate.challenger_users:,} users)."
    )


def figure(value: float, metric: Metric) -> str:
    """As people read it: rates in per cent, others with their unit."""
    if not np.isfinite(value):
        return "open"
    return f"{value:.2%}" if metric.kind == "rate" else f"{value:.4g} {metric.unit}".rstrip()


def change(value: float, metric: Metric) -> str:
    """A difference of two figures, with its sign."""
    if not np.isfinite(value):
        return "open"
    return f"{100 * value:+.2f} points" if metric.kind == "rate" else f"{value:+.3g} {metric.unit}".rstrip()


def duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
