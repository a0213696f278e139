import numpy as np
import pytest
from scipy import stats

from components.inference.experiment.config import Metric
from components.inference.experiment.means import BLEND, START, Means, mixture

METRIC = Metric("latency", "mean", "lower", 0.1, deviation=1.0, unit="s")


def started() -> Means:
    return Means(mixture(METRIC, 0.025, 0.8))


def test_it_is_welchs_statistic_in_other_words() -> None:
    rng = np.random.default_rng(0)
    champion, challenger = rng.normal(3, 1, 4000), rng.normal(3.1, 1, 1000)
    means = started()
    means.add(champion, challenger)
    evidence = means.evidence()
    welch = stats.ttest_ind(challenger, champion, equal_var=False)
    z = float(evidence.weight * evidence.difference / np.sqrt(evidence.variance))
    assert z == pytest.approx(welch.statistic, rel=0.02)  # the pooled variance is blended in
    low, high = welch.confidence_interval(0.95)
    lowest, highest = evidence.interval(0.025)
    assert lowest < low < evidence.difference < high < highest
    assert evidence.p() > welch.pvalue  # looking whenever one likes has its price


def test_a_variance_is_not_believed_to_be_smaller_than_its_blend() -> None:
    rng = np.random.default_rng(1)
    champion, challenger = rng.normal(0, 3, 500), rng.normal(0, 1, 100)
    means = started()
    means.add(champion, challenger)
    one, two = champion.var(ddof=1), challenger.var(ddof=1)
    pooled = (499 * one + 99 * two) / 598
    blended = (100 * two + BLEND * pooled) / (100 + BLEND)
    assert 1 / float(means.evidence().variance) == pytest.approx(one / 500 + blended / 100)


def test_adding_in_pieces_changes_nothing() -> None:
    rng = np.random.default_rng(2)
    champion, challenger = rng.lognormal(size=(3, 700)) + 1e6, rng.lognormal(size=(3, 300)) + 1e6
    whole, pieces = started(), started()
    whole.add(champion, challenger)
    for one, two in zip(np.array_split(champion, 9, 1), np.array_split(challenger, 9, 1), strict=True):
        pieces.add(one, two)
    assert pieces.evidence().difference == pytest.approx(whole.evidence().difference)
    assert pieces.evidence().variance == pytest.approx(whole.evidence().variance)


def test_the_interval_holds_the_truth_at_every_look_with_a_long_tail_and_unequal_arms() -> None:
    rng, runs = np.random.default_rng(3), 1000
    means, truth = started(), float(2 * np.exp(0.5) - np.exp(0.5))
    missed = np.zeros(runs, bool)
    for _ in range(30):
        means.add(rng.lognormal(size=(runs, 90)), 2 * rng.lognormal(size=(runs, 30)))
        low, high = means.evidence().interval(0.025)
        missed |= np.asarray((low > truth) | (high < truth))
    assert missed.sum() <= stats.binom.ppf(0.999, runs, 0.05)


@pytest.mark.parametrize("values", [np.ones(START - 1), np.ones(1000)])
def test_too_few_or_all_alike_say_nothing(values: np.ndarray) -> None:
    means = started()
    means.add(values, values)
    evidence = means.evidence()
    assert (*map(float, evidence.interval(0.025)), float(evidence.p())) == (-np.inf, np.inf, 1)


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="challenger: 2 values are not finite"):
        started().add(np.ones(3), np.array([1.0, np.nan, np.inf]))
