"""What happens in the circle, told while it happens. Runs in the clone that
flows/circle/__main__.py makes; leaves report.json.

Nothing is played: stages are made by DVC under Prefect, the watch and the retraining are runs of their deployments, and
the answers come over HTTP from the process that `tsumugi up` starts. A person deploys and rolls back by the command;
trials begin and end by the functions of a retraining, which say at once what they found.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from components.durable import write_whole
from components.inference import pointer
from components.inference.experiment import report
from components.inference.experiment.users import Observed
from components.inference.experiment.verdict import verdict
from components.inference.traffic import Traffic
from components.inference.traffic_tables import database
from flows.circle import hands
from flows.circle.hands import NAME, SERVING, Broken
from flows.circle.users import METRIC, Answer, Population, Users, texts
from flows.continuous import gate, trial
from flows.continuous.settings import read_settings
from flows.lineage import view
from flows.lineage.trace import as_dict, trace
from flows.releases import registry, rollout
from flows.workspace import ROOT, Refused, git, read_yaml

T = TypeVar("T")
STEPS = {  # and what each took on two cores, in seconds: the time left is told by it
    "Prefect's server": 16,
    "first version: train, choose, register, deploy": 130,
    "serve it; deployments and worker": 15,
    "steady traffic": 37,
    "other people come, and new data": 35,
    "retrain, gate, register, canary, promote": 190,
    "the promoted version alone": 10,
    "the same version on trial against itself": 45,
    "a bad version on trial": 16,
    "a bad version deployed, and rolled back": 30,
    "where an answer came from": 15,
}
PATIENCE = 3600.0  # seconds for which one thing is waited for
TELL = 20.0  # seconds between two lines while waiting
STEADY, ENOUGH = 250, 80  # answers before people change; answers of a version that show how good it is
SAYINGS, NEW = 2000, 1500  # texts that people have to choose from; records that arrive
BIN = 5.0  # seconds of traffic in one point of the figure


class Story:
    """The clock, the steps, and what is written down."""

    def __init__(self) -> None:
        self.begun = time.time()
        self.events: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        self._number = 0

    def step(self, name: str) -> None:
        """Tell that a step of STEPS begins, and how long the rest may take at the pace so far."""
        costs = list(STEPS.values())
        self._number = list(STEPS).index(name)
        done, passed = sum(costs[: self._number]), time.time() - self.begun
        left = sum(costs[self._number :]) * (passed / done if done else 1.0)
        self.say(f"{self._number + 1}/{len(STEPS)} {name} (about {max(1, round(left / 60))} min left)")

    def mark(self, what: str) -> None:
        """Write an event down, for the figure too."""
        self.events.append({"time": time.time() - self.begun, "what": what})
        self.say(f"    {what}")

    def say(self, line: str) -> None:
        minutes, seconds = divmod(int(time.time() - self.begun), 60)
        print(f"[{minutes:2}:{seconds:02}] {line}", flush=True)

    def until(self, look: Callable[[], T], what: str, users: Users | None = None) -> T:
        """What look() gives once that is true. Broken: it takes too long, or the users have come to grief."""
        begun = told = time.monotonic()
        while True:
            with suppress(httpx.TransportError):  # Prefect's server is silent where stages leave it no time
                if found := look():
                    return found
            now = time.monotonic()
            if users and not users.is_alive():
                raise Broken("the users' thread has ended: its traceback stands above")
            if now - begun > PATIENCE:
                raise Broken(f"{what}: not within {PATIENCE:.0f} s")
            if now - told > TELL:
                told = now
                self.say(f"    still waiting for {what}")
            time.sleep(0.3)


def turn(output: Path) -> None:
    story = Story()
    story.step("Prefect's server")
    url = hands.prefect(story.say)
    story.step("first version: train, choose, register, deploy")
    first = hands.first_version(output, story.say)
    before = git(ROOT, "rev-parse", "main").strip()
    story.mark(f"{first} is deployed")
    story.step("serve it; deployments and worker")
    served = hands.serve(story.until, story.say)
    hands.worker(url)
    with Users(served, SERVING, NAME, sayings()) as users:
        steady(story, users, first, url)
        shift(story, users, first, url)
        promoted = retrain(story, users, first, url)
        trials(story, users, promoted, output)
        bad = story.facts["bad"]
        rolled_back(story, users, promoted, bad)
        story.step("where an answer came from")
        traced(story, users, promoted, output)
    story.facts["main"] = {"before": before, "after": git(ROOT, "rev-parse", "main").strip()}
    story.facts["main"]["origin"] = git(ROOT, "ls-remote", "origin", "refs/heads/main").split()[0]
    story.facts["ports"] = [httpx.URL(each).port for each in (url, served)]
    conclude(story, users, output)
    if users.failures:
        raise Broken(f"{len(users.failures)} requests failed: {users.failures[0]}")


def sayings() -> dict[Population, list[tuple[str, str]]]:
    """What people of both populations say: scenes that the training has not seen."""
    populations: tuple[Population, Population] = ("usual", "shifted")
    return {each: _texts(1, SAYINGS, each) for each in populations}


def _texts(times: int, count: int, population: Population) -> list[tuple[str, str]]:
    """Of scenes from `times` the training's count on."""
    source = read_yaml(ROOT / "params.yaml")["sources"]["asked_text"]
    world = source["world"]
    return texts(source["seed"], world["objects"], times * world["train"], count, population)


def steady(story: Story, users: Users, version: str, url: str) -> None:
    """Traffic as the model knows it; the watch has nothing to tell."""
    story.step("steady traffic")
    story.until(lambda: len(users.of(version, "usual")) >= STEADY, "answers to the usual people", users)
    told = hands.watch(url, story.until)
    story.facts["false_alarms"] = told
    story.mark(f"the watch has looked, and told {len(told)} events")


def shift(story: Story, users: Users, version: str, url: str) -> None:
    """People with other words come, and labelled records of theirs arrive; the watch sees both."""
    story.step("other people come, and new data")
    users.population = "shifted"
    story.mark("other people come")
    window = read_settings(ROOT, NAME).window
    story.until(lambda: len(users.of(version, "shifted")) >= 2 * window, "answers to the other people", users)
    records = _texts(4, NEW, "shifted")
    lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n" for text, label in records]
    folder = ROOT / "data" / "incoming" / NAME
    folder.mkdir(parents=True)
    write_whole(folder / "other-words.jsonl", "".join(lines).encode())
    story.mark(f"{NEW} records of new data arrive")
    told = hands.watch(url, story.until)
    story.facts["alarms"] = told
    if "tsumugi.drift.seen" not in [each["event"] for each in told]:
        raise Broken(f"the watch has not seen the drift; it told {told}")
    story.mark("the watch tells " + ", ".join(each["event"].removeprefix("tsumugi.") for each in told))


def retrain(story: Story, users: Users, first: str, url: str) -> str:
    """What the events have started, to its end; the version that serves then."""
    story.step("retrain, gate, register, canary, promote")
    story.facts["runs"] = runs = hands.retraining(url, story.until)
    if [run["state"] for run in runs].count("Promoted") != 1:
        raise Broken(f"the retraining has not ended as Promoted: {runs}")
    version = pointer.read(pointer.place(SERVING, NAME)).champion.version
    story.mark(f"{version} is promoted")
    (made,) = (ROOT / "runs" / "continuous").iterdir()
    story.facts["gate"] = gate.read(made, NAME)
    story.facts["drift"] = json.loads((made / "reports" / "drift" / NAME / "rows.json").read_text())
    story.facts["drop"] = difference(users.of(first, "usual"), users.of(first, "shifted"))
    story.step("the promoted version alone")
    begun = time.time()
    story.until(lambda: len(users.of(version, "shifted", begun)) >= ENOUGH, f"answers of {version}", users)
    return version


def trials(story: Story, users: Users, promoted: str, output: Path) -> None:
    """By hand: the champion against itself, and a version whose classes have slipped."""
    story.step("the same version on trial against itself")
    judge(story, users, promoted, "a-a", output)
    story.step("a bad version on trial")
    story.facts["bad"] = bad = hands.slipped()
    judge(story, users, bad, "slipped", output)


def judge(story: Story, users: Users, version: str, id: str, output: Path) -> None:
    """A version on trial until the experiment says what to do, which is anything but to promote here."""
    design = read_settings(ROOT, NAME).design(id)
    with Traffic(database(SERVING)) as traffic:
        trial.begin(ROOT, SERVING, traffic, NAME, version, design)
        story.mark(f"{version} is on trial ({id})")
        looks: list[Any] = []

        def decided() -> bool:
            looks.append(trial.look(traffic, design))
            return looks[-1].decision != "continue"

        story.until(decided, f"the verdict on {version}", users)
        trial.end(traffic, design, looks[-1], looks[-1].decision)
        rollout.withdraw(ROOT, SERVING, NAME)
        report.write(output / id, design, trial.history(traffic, design))
    story.mark(f"{id}: {looks[-1].decision}; the trial is over")


def rolled_back(story: Story, users: Users, good: str, bad: str) -> None:
    """Somebody deploys the bad version all the same, sees what comes of it, and takes it back."""
    story.step("a bad version deployed, and rolled back")
    for command, version in ((("deploy", NAME, bad), bad), (("rollback", NAME), good)):
        hands.tsumugi(*command)
        story.mark(f"tsumugi {' '.join(command)}")
        begun = time.time()
        story.until(lambda v=version, b=begun: len(users.of(v, "shifted", b)) >= ENOUGH, f"answers of {version}", users)


def traced(story: Story, users: Users, version: str, output: Path) -> None:
    """The lineage of the last answer."""
    answer = users.of(version, "shifted")[-1].id
    with Traffic(database(SERVING)) as traffic:
        story.until(lambda: traffic.request(answer), "the answer's row", users)
    found = trace(ROOT, answer, database(SERVING))
    view.write_page(found, output / "lineage.html")
    story.facts["lineage"] = as_dict(found)


def difference(before: list[Answer], after: list[Answer]) -> dict[str, float]:
    """How much more often `after` is right than `before`, judged as an experiment's primary metric is."""
    design = read_settings(ROOT, NAME).design("drop")
    arms = {"champion": _right(before), "challenger": _right(after)}
    metrics = {metric.name: arms for metric in design.primary + design.guardrails}
    counts = {arm: len(values) for arm, values in arms.items()}
    (found, *_) = verdict(design, Observed(counts, metrics, 0.0)).estimates  # type: ignore[arg-type]
    return {
        "before": found.champion, "after": found.challenger, "difference": found.difference,
        "low": found.low, "high": found.high, "confidence": found.confidence, "users": len(before) + len(after),
    }  # fmt: skip


def _right(answers: Iterable[Answer]) -> Any:
    import numpy as np

    return np.array([each.right for each in answers], np.float64)


def conclude(story: Story, users: Users, output: Path) -> None:
    """report.json."""
    bins: dict[tuple[float, str], list[bool]] = {}
    for each in users.answers:
        bins.setdefault(((each.time - story.begun) // BIN * BIN, each.version), []).append(each.right)
    with Traffic(database(SERVING)) as traffic:
        rows = traffic.experiments(NAME)
    told = story.facts | {
        "metric": METRIC,
        "events": story.events,
        "moves": [[time - story.begun, champion, challenger] for time, champion, challenger in users.moves],
        "versions": [vars(each) for each in registry.versions(ROOT, NAME)],
        "experiments": {row["id"]: row for row in rows},
        "requests": {
            "sent": users.requests, "people": len(users.answers), "turned_away": users.away,
            "failed": len(users.failures), "failures": users.failures[:20],
        },
        "accuracy": [[at, version, sum(some), len(some)] for (at, version), some in sorted(bins.items())],
    }  # fmt: skip
    write_whole(output / "report.json", (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    try:
        turn(Path(sys.argv[1]))
    except (Broken, Refused) as error:
        print(f"circle: {error}", file=sys.stderr)
        sys.exit(1)
