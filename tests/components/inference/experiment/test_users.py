from dataclasses import dataclass

import numpy as np
import pytest

from components.inference.experiment.users import observe


@dataclass
class Logged:
    users: np.ndarray
    values: np.ndarray
    times: np.ndarray


def logged(*rows: tuple[str, float, float]) -> Logged:
    users, values, times = zip(*rows, strict=True)
    return Logged(np.array(users), np.array(values), np.array(times))


SEEN = {
    "champion": logged(("b", 0.0, 1.0), ("a", 0.0, 2.0), ("b", 0.0, 5.0), ("both", 0.0, 6.0)),
    "challenger": logged(("c", 0.0, 3.0), ("d", 0.0, 4.0), ("both", 0.0, 9.0)),
}
LATENCY = {
    "champion": logged(("b", 1.0, 1.0), ("a", 4.0, 2.0), ("b", 3.0, 5.0), ("both", 9.0, 6.0)),
    "challenger": logged(("c", 7.0, 3.0), ("both", 8.0, 9.0)),
}


def test_a_user_counts_once_with_the_mean_in_the_order_of_the_first() -> None:
    observed = observe(SEEN, {"latency": LATENCY})
    assert observed.values["latency"]["champion"].tolist() == [2.0, 4.0]  # b: (1 + 3) / 2, then a
    assert observed.values["latency"]["challenger"].tolist() == [7.0]  # d has no outcome
    assert observed.users == {"champion": 2, "challenger": 2}
    assert observed.crossed == 1
    assert observed.seconds == 8.0


def test_a_look_back_sees_only_what_was_there() -> None:
    observed = observe(SEEN, {"latency": LATENCY}, until=3.0)
    assert observed.values["latency"]["champion"].tolist() == [1.0, 4.0]
    assert observed.users == {"champion": 2, "challenger": 1}
    assert (observed.crossed, observed.seconds) == (0, 2.0)


def test_order_of_the_log_does_not_matter() -> None:
    rows = [("x", 1.0, 4.0), ("y", 2.0, 1.0), ("x", 3.0, 2.0)]
    for log in (logged(*rows), logged(*rows[::-1])):
        assert observe({"champion": log}, {"m": {"champion": log}}).values["m"]["champion"].tolist() == [2.0, 2.0]
        assert observe({"champion": log}, {"m": {"champion": log}}, until=2.0).values["m"]["champion"].tolist() == [
            2,
            3,
        ]


def test_an_arm_without_outcomes_is_empty() -> None:
    observed = observe(SEEN, {"latency": {"champion": LATENCY["champion"]}})
    assert observed.values["latency"]["challenger"].tolist() == []
    assert observe({}, {}).seconds == 0.0


def test_unknown_arms_and_values_are_refused() -> None:
    with pytest.raises(ValueError, match="latency: unknown arm shadow: known are champion, challenger"):
        observe(SEEN, {"latency": {**LATENCY, "shadow": LATENCY["champion"]}})
    with pytest.raises(ValueError, match="metric latency: 1 of 2 values are not finite"):
        observe(SEEN, {"latency": {"champion": logged(("a", 1.0, 1.0), ("b", float("nan"), 2.0))}})
