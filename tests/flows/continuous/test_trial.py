"""A trial against the hands of people: what they changed meanwhile stays as they left it, whatever the verdict."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from components.inference import pointer
from components.inference.experiment.config import Design, Metric
from components.inference.traffic import Traffic
from components.inference.traffic_tables import database
from flows.continuous import trial
from flows.continuous.generation import Generation
from flows.continuous.settings import read_settings
from flows.continuous_training import promote, withdraw
from flows.releases import registry, rollout
from flows.workspace import ROOT, Refused
from tests.flows.circle import NAME, serving
from tests.flows.tools import commit, git

PATIENCE = 1000.0  # seconds


@pytest.fixture
def made(root: Path) -> Generation:
    """A generation that is registered as v1.1.0, and no better than the champion; v1.2.0 is a hotfix."""
    made = Generation(root, NAME, "0" * 12)
    for version in ("v1.1.0", "v1.2.0"):
        (root / "README").write_text(version)
        commit(root)
        assert registry.register(root, NAME, "main") == version
    git(root, "branch", made.branch, f"{NAME}@v1.1.0")
    return made


@pytest.fixture
def traffic(root: Path) -> Iterator[Traffic]:
    with Traffic(database(serving(root))) as traffic:
        assert traffic.experiments() == []  # makes the tables
        yield traffic


def design(made: Generation) -> Design:
    return read_settings(made.root, NAME).design(made.experiment)


def begin(made: Generation, traffic: Traffic) -> None:
    trial.begin(made.root, serving(made.root), traffic, NAME, "v1.1.0", design(made))


def served(root: Path) -> tuple[str, str | None]:
    now = pointer.read(pointer.place(serving(root), NAME))
    return now.champion.version, now.challenger.version if now.challenger else None


def settle(made: Generation, traffic: Traffic) -> tuple[str, str]:
    found = trial.settle(serving(made.root), traffic, NAME, design(made), PATIENCE)
    return found.decision, " ".join(found.reasons)


def test_what_is_withdrawn_by_hand_does_not_come_back(made: Generation, traffic: Traffic) -> None:
    begin(made, traffic)
    assert served(made.root) == ("v1.0.0", "v1.1.0")
    assert settle(made, traffic)[0] == "continue"
    rollout.withdraw(made.root, serving(made.root), NAME)
    begin(made, traffic)  # as a run that was killed and is started again
    assert served(made.root) == ("v1.0.0", None)
    assert settle(made, traffic) == ("stop", "Ended by hand: the challenger was withdrawn.")
    row = trial.ended(traffic, made.experiment)
    assert row and row["decision"] == "stop"


def test_a_hotfix_ends_the_trial_against_the_champion_before(made: Generation, traffic: Traffic) -> None:
    begin(made, traffic)
    rollout.deploy(made.root, serving(made.root), NAME, "v1.2.0")
    assert settle(made, traffic) == ("stop", "Ended by hand: v1.2.0 was deployed in place of v1.0.0.")
    withdraw.fn(made, serving(made.root))
    assert served(made.root) == ("v1.2.0", None)


def test_another_trial_begun_by_hand_goes_on(made: Generation, traffic: Traffic) -> None:
    begin(made, traffic)
    rollout.challenge(made.root, serving(made.root), NAME, "v1.2.0", 0.1, "canary", "by-hand")
    assert settle(made, traffic)[0] == "stop"
    withdraw.fn(made, serving(made.root))
    assert served(made.root) == ("v1.0.0", "v1.2.0")


@pytest.mark.parametrize(
    ("hand", "left"),
    [
        ("nothing", "v1.1.0"),
        ("rollback after a promotion that was killed half-way", "v1.0.0"),
        ("hotfix", "v1.2.0"),
    ],
)
def test_a_verdict_promotes_over_nobodys_hand(made: Generation, traffic: Traffic, hand: str, left: str) -> None:
    begin(made, traffic)
    trial.end(traffic, design(made), trial.look(traffic, design(made)), "promote")
    if hand.startswith("rollback"):
        rollout.deploy(made.root, serving(made.root), NAME, "v1.1.0")
        rollout.rollback(made.root, serving(made.root), NAME)
    elif hand == "hotfix":
        rollout.deploy(made.root, serving(made.root), NAME, "v1.2.0")
    for _ in range(2):  # safe to repeat
        by_hand = promote.fn(made, read_settings(made.root, NAME), serving(made.root), traffic, "v1.1.0")
        assert bool(by_hand) == (hand != "nothing"), by_hand
        assert served(made.root) == (left, None)
    assert registry.served(made.root, NAME, "champion") == left


SHADOW = Design(
    experiment="text-shadow",
    primary=(Metric("accepted", "rate", "higher", effect=0.05, baseline=0.7),),
    guardrails=(
        Metric("failed", "rate", "lower", effect=0.05, baseline=0.01),
        Metric("seconds", "mean", "lower", effect=0.05, deviation=0.1),
    ),
    most_users=4000,
    mode="shadow",
    share=0.1,
)


def copied(traffic: Traffic, count: int, seconds: float, fails: float, agrees: float) -> None:
    """Requests to the champion, a few of them to its shadow too, as the server notes both."""
    rng = random.Random(0)
    asked = {"name": NAME, "commit": "c", "route": "/v1/classify", "experiment": SHADOW.experiment}
    for number in range(count):
        who = asked | {"user": f"user{number}", "time": float(number)}
        answer = {"labels": ["a"], "shares": [0.9]}
        took = max(0.01, rng.gauss(0.3, 0.1))
        id = traffic.record(**who, version="v1.0.0", role="champion", status=200, seconds=took, output=answer)
        if number % 2:
            continue
        status = 500 if rng.random() < fails else 200
        output = {"labels": ["a" if rng.random() < agrees else "b"], "shares": [0.7]}
        told = {"shadow_of": id} | ({"output": output} if status == 200 else {})
        traffic.record(**who, version="v1.1.0", role="shadow", status=status, seconds=took + seconds, output=told)
    traffic.flush()


@pytest.mark.parametrize(
    ("seconds", "fails", "decision", "because"),
    [
        (0.0, 0.0, "promote", "failed: held"),
        (0.15, 0.0, "stop", "seconds: broken"),
        (0.0, 0.3, "stop", "failed: broken"),
    ],
)
def test_a_shadow_has_to_do_no_harm(
    traffic: Traffic, seconds: float, fails: float, decision: str, because: str
) -> None:
    copied(traffic, 1600, seconds, fails, agrees=0.75)
    found = trial.look(traffic, SHADOW)
    assert (found.decision, found.champion_users, found.challenger_users) == (decision, 800, 800)
    said = " ".join(found.reasons)
    assert because in said
    share = float(said.partition("agreement: ")[2].partition("%")[0])
    assert share == pytest.approx(75, abs=5)
    assert trial.history(traffic, SHADOW)[-1].decision == decision


def test_continuous_yaml_says_how_a_challenger_is_tried(made: Generation, traffic: Traffic) -> None:
    assert read_settings(ROOT, NAME).mode == "canary"
    path = made.root / "continuous.yaml"
    path.write_text(f"{path.read_text()}  mode: shadow\n")
    with pytest.raises(Refused, match="a shadow is judged by the guardrails failed and seconds"):
        read_settings(made.root, NAME)
    both = ", ".join(
        f"{{name: {name}, kind: mean, better: lower, effect: 0.1, deviation: 0.1}}" for name in ("failed", "seconds")
    )
    path.write_text(path.read_text().replace("    most_users", f"    guardrails: [{both}]\n    most_users"))
    begin(made, traffic)
    challenger = pointer.read(pointer.place(serving(made.root), NAME)).challenger
    assert challenger and (challenger.mode, challenger.share) == ("shadow", 0.5)


def test_a_shadow_waits_for_enough_users_and_is_held_to_both_guardrails(traffic: Traffic) -> None:
    assert trial.look(traffic, SHADOW).decision == "continue", "nobody has asked yet"
    copied(traffic, 60, 0.0, 0.0, 1.0)
    assert trial.look(traffic, SHADOW).decision == "continue"
    with pytest.raises(ValueError, match="a shadow is judged by the guardrails failed and seconds: state both"):
        replace(SHADOW, guardrails=SHADOW.guardrails[:1])
