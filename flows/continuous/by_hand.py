"""Trials that a person begins and ends by the command; their experiments are rows, as those of a retraining are.

They are judged by the design of continuous.yaml, or of a file. Whatever else a person does to a trial ends its
experiment, and says so in it.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.inference.experiment import config
from components.inference.experiment.config import Design
from components.inference.experiment.verdict import Decision
from components.inference.pointer import Pointer
from components.inference.traffic_tables import database
from flows.continuous import trial
from flows.continuous.settings import FILE, read_settings
from flows.params import ParamsError, load
from flows.releases import rollout
from flows.releases.materialise import materialise
from flows.traffic import opened
from flows.workspace import Refused

log = logging.getLogger(__name__)


def begin(
    repo: Path,
    serving: Path,
    name: str,
    version: str,
    how: dict[str, Any],
    experiment: str | None = None,
    file: Path | None = None,
) -> Pointer:
    """Put a version on trial.

    Args:
        how: share and mode.
        experiment: its id. Default: made of name, version and the pointer's serial number.
        file: YAML with the design. Default: what continuous.yaml has for the name.

    Raises:
        Refused: nothing is deployed, there is no design or version, the id is taken, or another version is on trial.
    """
    id = experiment or f"{name}-{version}-{trial.served(serving, name).serial}"
    plan = _design(repo, name, file, {"experiment": id, **how})
    with opened(database(serving)) as traffic:
        row = traffic.experiment(id)
        if row and (row["state"] == "ended" or (row["name"], row["challenger"]) != (name, version)):
            whose = f"{row['name']}@{row['challenger']}'s, {row['state']}"
            raise Refused(f"experiment {id} is {whose}: choose another id by --experiment")
        materialise(repo, name, version, serving)  # what cannot be served gets no row
        trial.begin(repo, serving, traffic, name, version, plan)
    return trial.served(serving, name)


def deploy(repo: Path, serving: Path, name: str, version: str) -> Pointer:
    """rollout.deploy(); the experiment of a trial ends as "promote" where this is its challenger, else as "stop"."""
    return _over(serving, name, lambda: rollout.deploy(repo, serving, name, version), version)


def rollback(repo: Path, serving: Path, name: str) -> Pointer:
    """rollout.rollback(); the experiment of a trial ends as "stop"."""
    return _over(serving, name, lambda: rollout.rollback(repo, serving, name))


def withdraw(repo: Path, serving: Path, name: str) -> Pointer:
    """rollout.withdraw(); the experiment ends as "stop"."""
    return _over(serving, name, lambda: rollout.withdraw(repo, serving, name))


def _over(serving: Path, name: str, move: Callable[[], Pointer], promoted: str | None = None) -> Pointer:
    """What is served comes first: a database that is away does not keep a version from being taken back."""
    try:
        tried = trial.served(serving, name).challenger
    except Refused:
        tried = None
    moved = move()
    if tried:
        try:
            _end(serving, tried.experiment, "promote" if tried.version == promoted else "stop")
        except ValueError as error:  # also Refused
            log.warning("experiment %s is not marked as ended: %s", tried.experiment, error)
    return moved


def _end(serving: Path, experiment: str, decision: Decision) -> None:
    with opened(database(serving)) as traffic:
        row = traffic.experiment(experiment)
        if row and row["state"] != "ended":
            plan = config.design(row["config"])
            found = trial.look(traffic, plan)
            found = replace(found, decision=decision, reasons=("Ended by hand.", *found.reasons))
            trial.end(traffic, plan, found, decision)


def _design(repo: Path, name: str, file: Path | None, own: dict[str, Any]) -> Design:
    try:
        content = load(str(file)) if file else read_settings(repo, name).experiment
        return config.design({**content, **own})
    except Refused as error:
        raise Refused(f"{error}; or name a file with the design by --design") from None
    except (ParamsError, ValueError) as error:
        raise Refused(f"{file or FILE}: {error}") from None
