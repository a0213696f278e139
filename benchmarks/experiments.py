"""The sequential tests of experiments at 20 looks: false alarms, and power beside a test that looks once.

    python -m benchmarks.experiments [--runs 10000] [--json FILE]   about a minute, one thread

Everything is the code that judges an experiment (components/inference/experiment), run for many experiments at once.
For contrast, on the same data: "peeking", the t-test that is looked at 20 times as if each look were the only one.

To reach: under 5% false positives with 20 looks over 10,000 runs, for rates and for means, however skewed and however
small an arm; guardrails under 5% where the loss is just the margin; the split under 0.1%.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.special import ndtri

from benchmarks.environment import environment
from components.inference.experiment import means, rates, sample_ratio
from components.inference.experiment.config import Metric
from components.inference.experiment.evidence import Evidence
from components.inference.experiment.planning import plan

ALPHA, POWER, LOOKS = 0.05, 0.8, 20
SMALLER = 2000  # users of the smaller arm at the last look; the first look is at a twentieth
CHUNK = 500  # experiments at once
Draw = Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]  # generator, [runs, users], effect -> values


def rate(base: float) -> Draw:
    return lambda rng, shape, effect: (rng.random(shape, np.float32) < base + effect).astype(float)


def normal(rng: np.random.Generator, shape: tuple[int, int], effect: float) -> np.ndarray:
    return rng.standard_normal(shape, np.float32) + effect


def lognormal(rng: np.random.Generator, shape: tuple[int, int], effect: float) -> np.ndarray:
    """Latency with a long tail: skewness 6.2."""
    return np.exp(rng.standard_normal(shape, np.float32)).astype(float) + effect


LOGNORMAL = ((np.e - 1) * np.e) ** 0.5  # standard deviation


@dataclass(frozen=True)
class Case:
    name: str
    metric: Metric
    share: float
    draw: Draw


def cases() -> list[Case]:
    found = []
    for share in (0.5, 0.1):
        found += [
            Case("rate of 10%", Metric("rate", "rate", "higher", 0.02, baseline=0.1), share, rate(0.1)),
            Case("rate of 1%", Metric("rate", "rate", "higher", 0.005, baseline=0.01), share, rate(0.01)),
            Case("mean, normal", Metric("mean", "mean", "higher", 0.1, deviation=1.0), share, normal),
            Case("mean, lognormal", Metric("mean", "mean", "higher", 0.2, deviation=LOGNORMAL), share, lognormal),
        ]
    return found


def looks(
    case: Case, rng: np.random.Generator, runs: int, effect: float, users: int, side: float
) -> Iterator[tuple[Evidence, np.ndarray]]:
    """At each look, the evidence of each run and the statistic of its t-test; `users` of the smaller arm at the end."""
    if case.metric.kind == "rate":
        test = rates.Rates(rates.mixture(case.metric, side, POWER, case.share), case.share)
    else:
        test = means.Means(means.mixture(case.metric, side, POWER))
    arms = means.Moments(), means.Moments()
    factor = rates.ratio(case.share)
    edges = np.linspace(0, users, LOOKS + 1).astype(int)
    for few in np.diff(edges):
        champion = case.draw(rng, (runs, int(few * factor)), 0.0)
        challenger = case.draw(rng, (runs, few), effect)
        test.add(champion, challenger)
        for arm, values in zip(arms, (champion, challenger), strict=True):
            arm.add(values)
        deviation = np.sqrt(arms[0].variance_of_mean() + arms[1].variance_of_mean())
        t = np.divide(arms[1].mean - arms[0].mean, deviation, out=np.zeros(runs), where=deviation > 0)
        yield test.evidence(), t


def chunks(runs: int) -> Iterator[tuple[np.random.Generator, int]]:
    for seed, start in enumerate(range(0, runs, CHUNK)):
        yield np.random.default_rng(seed), min(CHUNK, runs - start)


def false_positives(case: Case, runs: int, users: int = SMALLER) -> tuple[float, float]:
    """Shares of A/A runs with a difference at any look: by the sequential test, by peeking."""
    sequential, peeking = 0, 0
    for rng, some in chunks(runs):
        found = [
            (evidence.p() < ALPHA, np.abs(t) > -ndtri(ALPHA / 2))
            for evidence, t in looks(case, rng, some, 0.0, users, ALPHA / 2)
        ]
        sequential, peeking = (
            count + int(np.any(each, 0).sum())
            for count, each in zip((sequential, peeking), zip(*found, strict=True), strict=True)
        )
    return sequential / runs, peeking / runs


def found(case: Case, runs: int) -> dict[str, float]:
    """Where the effect is there: how often each test finds it, and the users that the sequential one needs."""
    planned = plan(case.metric, case.share, ALPHA, POWER)
    smaller = min(case.share, 1 - case.share)
    once, sequential, stopped = [], [], []
    for rng, some in chunks(runs):
        effect = case.metric.effect
        *_, (_, t) = looks(case, rng, some, effect, round(planned.fixed * smaller), ALPHA / 2)
        once.append(t > -ndtri(ALPHA / 2))
        crossed = np.array(
            [
                evidence.above() > -np.log(ALPHA / 2)
                for evidence, _ in looks(case, rng, some, effect, round(planned.sequential * smaller), ALPHA / 2)
            ]
        )
        sequential.append(crossed.any(0))
        stopped.append(np.where(crossed.any(0), crossed.argmax(0) + 1, LOOKS) / LOOKS)
    return {
        "fixed users": planned.fixed,
        "fixed power": float(np.concatenate(once).mean()),
        "sequential users": planned.sequential,
        "sequential power": float(np.concatenate(sequential).mean()),
        "sequential users on average": float(np.concatenate(stopped).mean() * planned.sequential),
    }


def guardrail(case: Case, runs: int, times: float, users: int = SMALLER) -> tuple[float, float]:
    """Share of runs stopped where the loss is `times` the margin, and the smaller arm's users till then."""
    broken = []
    for rng, some in chunks(runs):
        margin = case.metric.effect
        broken.append(
            [
                evidence.above(margin) > -np.log(ALPHA)
                for evidence, _ in looks(case, rng, some, times * margin, users, ALPHA)
            ]
        )
    crossed = np.concatenate(broken, 1)
    stopped = crossed.any(0)
    mean = float((crossed.argmax(0) + 1)[stopped].mean() / LOOKS * users) if stopped.any() else float("nan")
    return float(stopped.mean()), mean


def split(runs: int, share: float, truth: float, users: int = 20_000) -> float:
    """Share of runs in which the split is called broken, where `truth` of the users are challengers."""
    every = users // LOOKS
    challengers = np.random.default_rng(0).binomial(every, truth, (runs, LOOKS)).cumsum(1)
    champions = every * np.arange(1, LOOKS + 1) - challengers
    return float((np.asarray(sample_ratio.p(champions, challengers, share)) < sample_ratio.ALARM).any(1).mean())


def returning(runs: int, users: int = 400) -> tuple[float, float]:
    """A/A with users who come back at every look, as unlike each other as their own visits: by user, and by request."""
    metric = Metric("mean", "mean", "higher", 0.2, deviation=1.0)
    mixture = means.mixture(metric, ALPHA / 2, POWER)
    by_user, by_request = 0, 0
    for rng, some in chunks(runs):
        own = rng.standard_normal((2, some, users))
        totals, requests, crossed = np.zeros_like(own), means.Means(mixture), []
        for look in range(1, LOOKS + 1):
            here = users * look // LOOKS
            visits = own[..., :here] + rng.standard_normal((2, some, here))
            totals[..., :here] += visits
            since = look - np.arange(here) * LOOKS // users  # looks since the user came
            people = means.Means(mixture)
            people.add(*(totals[..., :here] / since))
            requests.add(*visits)
            crossed.append([people.evidence().p() < ALPHA, requests.evidence().p() < ALPHA])
        hits = np.any(crossed, 0).sum(1)
        by_user, by_request = by_user + int(hits[0]), by_request + int(hits[1])
    return by_user / runs, by_request / runs


@dataclass(frozen=True)
class Row:
    what: str
    share: float  # of challengers
    figures: dict[str, float]


def measure(runs: int) -> Iterator[Row]:
    for case in cases():
        sequential, peeking = false_positives(case, runs)
        yield Row(f"A/A: {case.name}", case.share, {"sequential": sequential, "peeking": peeking})
    by_user, by_request = returning(runs)
    yield Row("A/A: users who come back", 0.5, {"by user": by_user, "by request": by_request})
    for case in cases():
        if case.name in ("rate of 10%", "mean, normal", "mean, lognormal"):
            at, _ = guardrail(case, runs, 1.0)
            beyond, users = guardrail(case, runs // 5, 3.0)
            figures = {"stopped at the margin": at, "at three margins": beyond, "smaller arm's users till then": users}
            yield Row(f"guardrail: {case.name}", case.share, figures)
    for share in (0.5, 0.1):
        figures = {
            "as meant": split(runs, share, share),
            "a twentieth of the challengers lost": split(runs, share, 0.95 * share / (1 - 0.05 * share)),
        }
        yield Row("split called broken within 20,000 users", share, figures)
    for case in cases():
        if case.name != "rate of 1%":
            yield Row(f"A/B: {case.name}", case.share, found(case, runs // 10))


def table(rows: Iterator[Row]) -> list[Row]:
    """Print each row as it comes."""
    print(f"{'experiments':40} {'share':>5}  figures")
    kept = []
    for row in rows:
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in row.figures.items())
        print(f"{row.what:40} {row.share:5.0%}  {shown}", flush=True)
        kept.append(row)
    return kept


def _shown(value: float) -> str:
    return f"{value:.2%}" if value <= 1 else f"{value:,.0f}"


def verdicts(rows: list[Row]) -> dict[str, bool]:
    """What is to be reached."""
    bars = {"sequential": ALPHA, "by user": ALPHA, "stopped at the margin": ALPHA, "as meant": sample_ratio.ALARM}
    return {
        f"{row.what}, share {row.share:.0%}: {name} under {bars[name]:.1%}": value < bars[name]
        for row in rows
        for name, value in row.figures.items()
        if name in bars
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--runs", type=int, default=10_000, metavar="N", help="experiments of each kind (default: 10000)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    rows = table(measure(arguments.runs))
    for what, holds in verdicts(rows).items():
        print(f"{what}: {'holds' if holds else 'MISSED'}")
    if arguments.json:
        where = environment("numpy", "scipy")
        result = {"environment": where, "runs": arguments.runs, "looks": LOOKS, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
