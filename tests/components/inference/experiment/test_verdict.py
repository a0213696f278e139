from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from components.inference.experiment.config import Design, Metric
from components.inference.experiment.users import Observed
from components.inference.experiment.verdict import Verdict, verdict

THUMBS = Metric("thumbs_up", "rate", "higher", 0.05, baseline=0.4)
VALUE = Metric("value", "mean", "higher", 0.3, deviation=1.0, unit="JPY")
LATENCY = Metric("latency", "mean", "lower", 0.1, deviation=0.5, unit="s")
DESIGN = Design("ranking-3", (THUMBS,), 20_000, (LATENCY,), least_users=500, least_seconds=3600.0)


def observed(
    users: int = 4000, thumbs: float = 0.4, seconds: float = 7200.0, slower: float = 0.0, seed: int = 0, lost: int = 0
) -> Observed:
    """So many users of each arm; the challenger's rate of thumbs, how much slower it is, how many users it lost."""
    rng = np.random.default_rng(seed)
    return Observed(
        {"champion": users, "challenger": users - lost},
        {
            "thumbs_up": {
                "champion": (rng.random(users) < 0.4).astype(float),
                "challenger": (rng.random(users - lost) < thumbs).astype(float),
            },
            "latency": {
                "champion": rng.lognormal(-1, 0.6, users),
                "challenger": rng.lognormal(-1, 0.6, users - lost) + slower,
            },
            "value": {"champion": rng.normal(5, 1, users), "challenger": rng.normal(5, 1, users - lost)},
        },
        seconds,
    )


def states(found: Verdict) -> dict[str, str]:
    return {each.metric: each.state for each in found.estimates}


def test_a_gain_is_promoted() -> None:
    found = verdict(DESIGN, observed(thumbs=0.47))
    assert found.decision == "promote"
    assert states(found) == {"thumbs_up": "better", "latency": "held"}
    assert found.reasons[0].startswith("thumbs up: better: 4")
    assert "95.0% at every look" in found.reasons[0] and "4,000 and 4,000 users" in found.reasons[0]


@pytest.mark.parametrize(
    ("design", "seconds", "reason"),
    [
        (replace(DESIGN, least_users=5000), 7200.0, "4,000 users in the smaller arm, 5,000 are asked for"),
        (DESIGN, 600.0, "10.0 minutes have passed, 60.0 minutes are asked for"),
    ],
)
def test_not_before_its_time(design: Design, seconds: float, reason: str) -> None:
    found = verdict(design, observed(thumbs=0.47, seconds=seconds))
    assert found.decision == "continue"
    assert reason in found.reasons[0]


def test_a_loss_beyond_a_guardrail_stops_early() -> None:
    found = verdict(DESIGN, observed(users=300, thumbs=0.6, slower=0.4, seconds=60.0))
    assert found.decision == "stop"
    assert found.reasons[0].startswith("latency: broken (margin 0.1 s)")


def test_a_gain_is_not_promoted_while_a_guardrail_is_open() -> None:
    found = verdict(DESIGN, observed(thumbs=0.47, slower=0.1))
    assert states(found) == {"thumbs_up": "better", "latency": "open"}
    assert found.decision == "continue"
    ended = verdict(replace(DESIGN, most_users=8000), observed(thumbs=0.47, slower=0.1))
    assert ended.decision == "keep"
    assert ended.reasons[0] == "The end has come: 8,000 users of 8,000 were seen."


def test_a_worse_one_is_stopped_and_lower_may_be_better() -> None:
    assert verdict(DESIGN, observed(thumbs=0.33)).decision == "stop"
    faster = replace(DESIGN, primary=(LATENCY,), guardrails=())
    assert verdict(faster, observed(slower=-0.2)).decision == "promote"
    assert verdict(faster, observed(slower=0.2)).decision == "stop"


def test_nothing_left_to_find_keeps_the_champion_before_the_end() -> None:
    found = verdict(replace(DESIGN, most_users=100_000), observed(users=12_000))
    assert found.decision == "keep"
    assert states(found)["thumbs_up"] == "no gain that matters"


def test_time_ends_it_too() -> None:
    found = verdict(replace(DESIGN, most_seconds=7200.0), observed(users=800))
    assert found.decision == "keep"
    assert "2.0 hours of 2.0 hours" in found.reasons[0]


def test_a_broken_split_counts_more_than_any_gain() -> None:
    found = verdict(DESIGN, observed(thumbs=0.5, lost=500))
    assert found.decision == "stop"
    assert (
        "The split is broken: 3,500 of 7,500 users are challengers, 46.67% where 50.00% were meant" in found.reasons[0]
    )


def test_primary_metrics_share_alpha() -> None:
    both = verdict(replace(DESIGN, primary=(THUMBS, VALUE)), observed(thumbs=0.47)).estimates[0]
    alone = verdict(replace(DESIGN, alpha=0.025), observed(thumbs=0.47)).estimates[0]
    assert (both.low, both.high, both.confidence) == (alone.low, alone.high, 0.975)


def test_an_experiment_with_nothing_in_it_promotes_nothing() -> None:
    """100 A/A experiments with two primary metrics, looked at five times each."""
    design = replace(DESIGN, primary=(THUMBS, VALUE), most_users=3000, least_users=100, least_seconds=0.0)
    ended: list[str] = []
    for seed in range(100):
        whole = observed(users=1500, seed=seed)
        for users in range(300, 1501, 300):
            values = {name: {arm: each[:users] for arm, each in arms.items()} for name, arms in whole.values.items()}
            found = verdict(design, Observed({"champion": users, "challenger": users}, values, 60.0 * users))
            if found.decision != "continue":
                break
        ended.append(found.decision)
    assert "continue" not in ended
    assert len(ended) - ended.count("keep") <= stats.binom.ppf(0.999, 100, 0.05)
    assert ended.count("promote") <= stats.binom.ppf(0.999, 100, 0.025)


def test_before_the_first_outcome() -> None:
    nothing = {name: {"champion": np.zeros(0), "challenger": np.zeros(0)} for name in ("thumbs_up", "latency")}
    found = verdict(DESIGN, Observed({"champion": 0, "challenger": 0}, nothing, 0.0))
    assert found.decision == "continue"
    assert "thumbs up: no outcome of one arm yet." in found.reasons


def test_a_missing_metric_and_a_wrong_value_are_named() -> None:
    some = observed(users=600)
    with pytest.raises(ValueError, match="no outcomes of latency"):
        verdict(DESIGN, replace(some, values={"thumbs_up": some.values["thumbs_up"]}))
    thumbs = {"champion": np.full(9, -1.0), "challenger": np.ones(9)}
    with pytest.raises(ValueError, match=r"metric thumbs_up, champion: -1.0 is no value of a rate"):
        verdict(DESIGN, replace(some, values={**some.values, "thumbs_up": thumbs}))
