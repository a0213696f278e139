import pytest

from benchmarks.experiments import Case, cases, found
from components.inference.experiment.config import Metric
from components.inference.experiment.planning import plan

RATE = Metric("thumbs_up", "rate", "higher", 0.02, baseline=0.1)
MEAN = Metric("latency", "mean", "lower", 0.5, deviation=1.0)


def test_the_fixed_test_agrees_with_tables() -> None:
    assert plan(MEAN).fixed == 126  # 2 x 63 for d = 0.5 (Cohen 1988), by the normal quantiles
    assert plan(RATE).fixed == pytest.approx(2 * 3839, abs=4)  # Fleiss, Levin, Paik 2003, without correction
    assert plan(MEAN, share=0.2).fixed == pytest.approx(126 / (4 * 0.2 * 0.8), rel=0.01)


@pytest.mark.parametrize("case", [case for case in cases() if case.name in ("rate of 10%", "mean, normal")][:2])
def test_the_power_is_what_was_asked_for(case: Case) -> None:
    """Real runs, looked at 20 times, against the plan's simulation, which looks oftener."""
    figures = found(case, 1000)
    assert 0.74 < figures["fixed power"] < 0.86
    assert 0.74 < figures["sequential power"] < 0.86


def test_the_price_of_looking_and_what_stopping_gives_back() -> None:
    for metric in (RATE, MEAN):
        planned = plan(metric)
        assert planned.fixed < planned.sequential < 2 * planned.fixed
        assert planned.expected < 1.3 * planned.fixed
        assert sum(planned.arms()) == planned.sequential


def test_days() -> None:
    planned = plan(MEAN)
    assert planned.days(10.0) == planned.sequential / 10
    with pytest.raises(ValueError, match="0 users a day"):
        planned.days(0.0)


def test_bad_plans_are_refused() -> None:
    with pytest.raises(ValueError, match="power 1 must be in"):
        plan(MEAN, power=1.0)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        plan(Metric("thumbs_up", "rate", "higher", 0.3, baseline=0.9))
