import math
from collections import deque

import numpy as np
import pytest
from scipy import stats

from components.inference.experiment.config import Metric
from components.inference.experiment.rates import CENTRE, Rates, mixture

METRIC = Metric("thumbs_up", "rate", "higher", 0.02, baseline=0.1)


def started(share: float) -> Rates:
    return Rates(mixture(METRIC, 0.025, 0.8, share), share)


def by_hand(champion: np.ndarray, challenger: np.ndarray, share: float) -> tuple[int, float, float]:
    """Blocks, their sum and their squares, one user after the other."""
    less, more = (challenger, champion) if share <= 0.5 else (champion, challenger)
    ratio = (1 - share) / share if share <= 0.5 else share / (1 - share)
    few, many = deque(less.tolist()), deque(more.tolist())
    blocks, total, squares = 0, 0.0, 0.0
    while few:
        size = math.floor((blocks + 1) * ratio + 1e-9) - math.floor(blocks * ratio + 1e-9)
        if len(many) < size:
            break
        difference = few.popleft() - sum(many.popleft() for _ in range(size)) / size
        difference *= 1 if share <= 0.5 else -1
        centre = min(CENTRE, max(-CENTRE, total / blocks)) if blocks else 0.0
        blocks, total, squares = blocks + 1, total + difference, squares + (difference - centre) ** 2
    return blocks, total, squares


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.77])
def test_however_it_is_added_it_is_what_a_hand_would_count(share: float) -> None:
    rng = np.random.default_rng(1)
    champion, challenger = (rng.random(900) < 0.3).astype(float), rng.random(700)
    whole, pieces = started(share), started(share)
    whole.add(champion, challenger)
    for one, two in zip(np.array_split(champion, 23), np.array_split(challenger, 23), strict=True):
        pieces.add(one, two)
    blocks, total, squares = by_hand(champion, challenger, share)
    for each in (whole, pieces):
        assert each.blocks == blocks
        assert (float(each.sums), float(each.squares)) == pytest.approx((total, squares))


def test_false_alarms_when_looked_at_after_every_user() -> None:
    """Rare events, a small arm, and no user too early to look at: 1,500 A/A runs of 400 looks."""
    rng, runs = np.random.default_rng(2), 1500
    each = started(0.1)
    crossed = np.zeros(runs, bool)
    for _ in range(400):
        each.add((rng.random((runs, 9)) < 0.02).astype(float), (rng.random((runs, 1)) < 0.02).astype(float))
        crossed |= np.asarray(each.evidence().p() < 0.05)
    assert crossed.sum() <= stats.binom.ppf(0.999, runs, 0.05)


def test_the_interval_holds_the_truth_at_every_look() -> None:
    rng, runs = np.random.default_rng(3), 1000
    each = started(0.5)
    missed = np.zeros(runs, bool)
    for _ in range(40):
        each.add((rng.random((runs, 50)) < 0.3).astype(float), (rng.random((runs, 50)) < 0.45).astype(float))
        low, high = each.evidence().interval(0.025)
        missed |= (low > 0.15) | (high < 0.15)
    assert missed.sum() <= stats.binom.ppf(0.999, runs, 0.05)
    low, high = each.evidence().interval(0.025)
    assert np.mean(high - low) < 0.1  # Wald's, for one look: 0.059


def test_p_and_interval_say_the_same() -> None:
    rng, runs = np.random.default_rng(4), 500
    each = started(0.5)
    each.add((rng.random((runs, 400)) < 0.3).astype(float), (rng.random((runs, 400)) < 0.4).astype(float))
    evidence = each.evidence()
    low, high = evidence.interval(0.025)
    assert ((evidence.p() < 0.05) == ((low > 0) | (high < 0))).all()
    assert 50 < (evidence.p() < 0.05).sum() < 450


def test_without_users_everything_is_possible() -> None:
    evidence = started(0.5).evidence()
    assert (*map(float, evidence.interval(0.025)), float(evidence.p())) == (-1, 1, 1)


@pytest.mark.parametrize("wrong", [-0.01, 1.01, float("nan")])
def test_values_outside_are_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"challenger: .* lie in \[0, 1\]"):
        started(0.5).add(np.zeros(2), np.array([0.5, wrong]))
