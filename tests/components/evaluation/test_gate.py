"""The gate's rule, case by case."""

import pytest

from components.evaluation.bootstrap import Interval
from components.evaluation.gate import Rule, Slice, refusals

GOOD = {
    "fresh": Interval(0.1, 0.05, 0.15),
    "frozen": Interval(-0.005, -0.015, 0.005),
    "slices": {"label=red": Slice(Interval(-0.02, -0.04, -0.01), 50)},
    "slower": 1.1,
    "larger": 1.0,
}
CASES = [
    ({}, None),
    (
        {"fresh": Interval(0.1, -0.001, 0.2)},
        "no sure gain on new data: +0.1000 [-0.0010, +0.2000], and the interval must",
    ),
    ({"fresh": Interval(0.0, 0.0, 0.0)}, "no sure gain"),  # champion against itself
    ({"frozen": Interval(-0.005, -0.021, 0.01)}, "forgets: on old data -0.0050 [-0.0210, +0.0100]"),
    ({"slices": {"label=red": Slice(Interval(-0.2, -0.3, -0.1), 50)}}, "loses in the slice label=red: -0.2000"),
    ({"slices": {"label=red": Slice(Interval(-0.2, -0.3, -0.1), 29)}}, None),  # too few to judge
    ({"slices": {"label=red": Slice(Interval(-0.2, -0.5, 0.1), 50)}}, None),  # not sure
    ({"slower": 1.3}, "slower: 1.30 times the champion's latency"),
    ({"larger": 2.0}, "larger: 2.00 times the champion's size"),
]


@pytest.mark.parametrize(("change", "reason"), CASES)
def test_each_reason_refuses_alone(change: dict, reason: str | None) -> None:
    found = refusals(Rule(), **GOOD | change)
    assert len(found) == (reason is not None)
    if reason:
        assert found[0].startswith(reason)


def test_all_reasons_are_told() -> None:
    bad = {"fresh": Interval(-0.1, -0.2, -0.05), "frozen": Interval(-0.1, -0.2, -0.05), "slower": 2.0, "larger": 2.0}
    assert len(refusals(Rule(), **GOOD | bad)) == 4
