import numpy as np
import pytest
from scipy import stats

from components.evaluation.bootstrap import bootstrap, over_seeds


def test_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=300)
    ours = bootstrap(values, samples=4000, seed=3)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=5).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.high, abs=0.01)


def test_ratio_agrees_with_scipy() -> None:
    rng = np.random.default_rng(2)
    words = rng.integers(3, 12, 250)
    errors = rng.binomial(words, 0.1)
    ours = bootstrap(errors, words, samples=4000, seed=0)
    theirs = stats.bootstrap(
        (errors, words),
        lambda e, w, axis: e.sum(axis) / w.sum(axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=7,
    ).confidence_interval
    assert ours.value == errors.sum() / words.sum()
    assert ours.low == pytest.approx(theirs.low, abs=0.002)
    assert ours.high == pytest.approx(theirs.high, abs=0.002)


def test_95_of_100_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(4)
    held = 0
    for trial in range(300):
        interval = bootstrap(rng.random(200) < 0.3, samples=400, seed=trial)
        held += interval.low <= 0.3 <= interval.high
    assert 0.90 <= held / 300 <= 0.98


def test_same_seed_same_interval_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random(50)
    first = bootstrap(values, samples=500, seed=9)
    monkeypatch.setattr("components.evaluation.bootstrap.CHUNK", 120)
    assert bootstrap(values, samples=500, seed=9) == first
    assert bootstrap(values, samples=500, seed=10) != first


def test_no_units_are_refused() -> None:
    with pytest.raises(ValueError, match="test split empty"):
        bootstrap(np.zeros(0))


def test_over_seeds_is_students_interval() -> None:
    interval = over_seeds([0.90, 0.92, 0.94])
    low, high = stats.t.interval(0.95, 2, loc=0.92, scale=0.02 / 3**0.5)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.92, low, high))
