"""A challenger's trial: beside the champion for a share of the users, judged at any look, ended by a verdict.

The experiment's row in the traffic database and the pointer are its state: all of this may be done again after a kill.
Who changes by hand what is served, in the middle of a trial, ends it: what was withdrawn does not come back by itself.
"""

import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from components.inference import pointer
from components.inference.experiment.config import ARMS, Design
from components.inference.experiment.report import timeline
from components.inference.experiment.users import observe
from components.inference.experiment.verdict import Verdict, verdict
from components.inference.pointer import Pointer
from components.inference.traffic import Traffic
from flows.continuous import shadow
from flows.releases import rollout
from flows.workspace import Refused


def begin(repo: Path, serving: Path, traffic: Traffic, name: str, version: str, design: Design) -> None:
    """Put the version on trial; nothing where its experiment has begun, or has ended.

    Raises:
        Refused: nothing is deployed under the name, or another version is on trial.
    """
    now = served(serving, name)
    row = traffic.experiment(design.experiment)
    if row and row["state"] != "planned":
        return
    other = now.challenger
    if other and other.experiment != design.experiment:
        raise Refused(
            f"{name}: {other.version} is on trial (experiment {other.experiment}): wait, or end it by "
            f"`tsumugi rollback {name} --challenger`"
        )
    if not row:
        traffic.add_experiment(design.experiment, name, now.champion.version, version, asdict(design))
    rollout.challenge(repo, serving, name, version, design.share, design.mode, design.experiment)
    traffic.change_experiment(design.experiment, state="running", started=time.time())


def served(serving: Path, name: str) -> Pointer:
    """What the pointer says. Refused: nothing is deployed under the name, or it does not read."""
    try:
        return pointer.read(pointer.place(serving, name))
    except (FileNotFoundError, ValueError) as error:
        raise Refused(f"{name} is not served from {serving}: {error}") from None


def changed(serving: Path, traffic: Traffic, name: str, experiment: str) -> str:
    """What somebody has changed of what is served since the trial began; empty where nothing was.

    Raises:
        FileNotFoundError, ValueError: the pointer does not read.
    """
    now, row = pointer.read(pointer.place(serving, name)), traffic.experiment(experiment)
    if row and now.champion.version != row["champion"]:
        return f"Ended by hand: {now.champion.version} was deployed in place of {row['champion']}."
    if not now.challenger or now.challenger.experiment != experiment:
        return "Ended by hand: the challenger was withdrawn."
    return ""


def settle(serving: Path, traffic: Traffic, name: str, design: Design, patience: float) -> Verdict:
    """A look at a running trial, which ends it where a verdict, a hand, or the end of patience (seconds) says so."""
    found = look(traffic, design)
    if by_hand := changed(serving, traffic, name, design.experiment):
        found = replace(found, decision="stop", reasons=(by_hand,))
    elif found.decision == "continue" and remaining(traffic, design.experiment, patience) <= 0:
        found = replace(found, decision="keep")
    if found.decision != "continue":
        end(traffic, design, found, found.decision)
    return found


def look(traffic: Traffic, design: Design) -> Verdict:
    """The verdict on what was logged so far. ValueError for values that a metric's kind does not allow."""
    if design.mode == "shadow":
        return shadow.judge(design, shadow.pairs(traffic, design.experiment))
    return verdict(design, observe(*_logs(traffic, design)))


def history(traffic: Traffic, design: Design) -> list[Verdict]:
    """The verdicts that were to be had from the first request on. ValueError where there is none."""
    if design.mode == "shadow":
        return shadow.history(design, shadow.pairs(traffic, design.experiment))
    return timeline(design, *_logs(traffic, design))


def _logs(traffic: Traffic, design: Design) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Which users were seen, and each metric's outcomes, by arm."""

    def arms(metric: str) -> dict[str, Any]:
        return {arm: log for arm, log in traffic.outcomes(design.experiment, metric).items() if arm in ARMS}

    return arms("failed"), {metric.name: arms(metric.name) for metric in design.primary + design.guardrails}


def end(traffic: Traffic, design: Design, found: Verdict, decision: str) -> None:
    """Write the verdict down, once."""
    content = json.loads(json.dumps(asdict(found) | {"decision": decision}, default=str), parse_constant=lambda _: None)
    row = traffic.experiment(design.experiment)
    if row and row["state"] != "ended":
        traffic.change_experiment(design.experiment, state="ended", verdict=content, ended=time.time())


def ended(traffic: Traffic, experiment: str) -> dict[str, Any] | None:
    """The verdict of an experiment that has ended."""
    row = traffic.experiment(experiment)
    return row["verdict"] if row and row["state"] == "ended" else None


def remaining(traffic: Traffic, experiment: str, patience: float) -> float:
    """Seconds of patience that are left of a running experiment."""
    row = traffic.experiment(experiment)
    return patience - (time.time() - row["started"]) if row and row["started"] else math.inf
