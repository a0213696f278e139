"""What benchmarks/experiments.py shows, with fewer runs: under 5% false positives at 20 looks."""

import pytest
from scipy import stats

from benchmarks.experiments import Case, cases, false_positives, guardrail, returning

RUNS = 2000
MOST = int(stats.binom.ppf(0.999, RUNS, 0.05)) / RUNS


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case.name}, {case.share:.0%}")
def test_no_difference_is_seldom_found(case: Case) -> None:
    sequential, peeking = false_positives(case, RUNS, users=600)
    assert sequential <= MOST
    assert peeking > 2 * MOST  # the same runs, judged by a test that may be looked at but once


@pytest.mark.parametrize("case", cases()[:3:2], ids=lambda case: case.name)
def test_a_loss_just_at_the_margin_seldom_breaks_a_guardrail(case: Case) -> None:
    assert guardrail(case, RUNS, 1.0, users=600)[0] <= MOST


def test_users_who_come_back_count_once() -> None:
    by_user, by_request = returning(500, users=200)
    assert by_user <= stats.binom.ppf(0.999, 500, 0.05) / 500
    assert by_request > 0.15
