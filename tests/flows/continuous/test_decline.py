"""A champion's decline is told where outcomes fall, and by chance alone no more often than alpha."""

import random
from pathlib import Path

import pytest

from components.inference.experiment.config import Metric
from components.inference.traffic import Traffic
from flows.continuous import decline

RATE = Metric("accepted", "rate", "higher", effect=0.1, baseline=0.7)
SLOW = Metric("wait", "mean", "lower", effect=0.1, deviation=0.2)


def log(traffic: Traffic, metric: Metric, values: list[float], version: str = "v1.0.0") -> None:
    for number, value in enumerate(values):
        id = traffic.record(
            user=f"user{number}", name="text", version=version, commit="c", role="champion", route="/", status=200,
            seconds=0.1, time=float(number),
        )  # fmt: skip
        traffic.outcome(id, metric.name, value, float(number))
    traffic.flush()


@pytest.fixture
def traffic(tmp_path: Path):
    with Traffic(f"sqlite:///{tmp_path / 'traffic.db'}") as traffic:
        yield traffic


def drawn(rng: random.Random, count: int, rate: float) -> list[float]:
    return [float(rng.random() < rate) for _ in range(count)]


def test_a_fall_is_told_with_its_figures(traffic: Traffic) -> None:
    rng = random.Random(0)
    log(traffic, RATE, drawn(rng, 400, 0.8) + drawn(rng, 200, 0.5))
    found = decline.look(traffic, "text", "v1.0.0", RATE, 200)
    assert found is not None
    assert found["window"] == 2
    assert found["then"] - found["now"] > 0.2
    assert found["p"] < 0.001
    assert decline.look(traffic, "text", "v2.0.0", RATE, 200) is None, "another version's"


def test_more_is_worse_where_less_is_better(traffic: Traffic) -> None:
    rng = random.Random(0)
    log(traffic, SLOW, [rng.gauss(1, 0.2) for _ in range(200)] + [rng.gauss(1.3, 0.2) for _ in range(200)])
    assert decline.look(traffic, "text", "v1.0.0", SLOW, 200) is not None


@pytest.mark.parametrize("later", [0.8, 0.95, 0.74])
def test_what_stays_or_rises_or_falls_by_little_is_no_decline(traffic: Traffic, later: float) -> None:
    rng = random.Random(1)
    log(traffic, RATE, drawn(rng, 2000, 0.8) + drawn(rng, 2000, later))
    assert decline.look(traffic, "text", "v1.0.0", RATE, 2000) is None


def test_the_first_window_and_the_last_full_one_are_read_in_order_of_time(traffic: Traffic) -> None:
    log(traffic, RATE, [float(number) for number in range(47)])
    log(traffic, RATE, [0.5] * 30, "v2.0.0")
    full, first, last = decline.windows(traffic, "text", "v1.0.0", "accepted", 10)
    assert full == 3
    assert first == [(f"user{number}", float(number)) for number in range(10)]
    assert last == [(f"user{number}", float(number)) for number in range(30, 40)]
    assert decline.windows(traffic, "text", "v1.0.0", "accepted", 24) == (0, [], [])


def test_a_user_counts_once(traffic: Traffic) -> None:
    """One user who complains a hundred times is one complaint."""
    for number in range(400):
        user = "loud" if 200 <= number < 300 else f"user{number}"
        id = traffic.record(
            user=user, name="text", version="v1", commit="c", role="champion", route="/", status=200, seconds=0.1,
            time=float(number),
        )  # fmt: skip
        traffic.outcome(id, "accepted", float(user != "loud"), float(number))
    traffic.flush()
    assert decline.look(traffic, "text", "v1", RATE, 200) is None


def test_looking_at_every_window_for_long_tells_no_more_than_alpha(monkeypatch: pytest.MonkeyPatch) -> None:
    """150 champions that stay as they were, each looked at 10 times."""
    alarms = 0
    small = Metric("accepted", "rate", "higher", effect=1e-9, baseline=0.7)
    for seed in range(150):
        rng = random.Random(seed)
        values = [(f"user{number}", float(rng.random() < 0.7)) for number in range(11 * 60)]
        told = []
        for windows in range(2, 12):
            last = values[60 * (windows - 1) : 60 * windows]
            found = (windows - 1, values[:60], last)
            monkeypatch.setattr(decline, "windows", lambda *_, found=found: found)
            told.append(decline.look(None, "text", "v1", small, 60))  # type: ignore[arg-type]
        alarms += any(told)
    assert alarms <= 150 * decline.ALPHA + 3 * (150 * decline.ALPHA) ** 0.5
