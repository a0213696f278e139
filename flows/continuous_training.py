"""The flow that closes the circle: new data in, a better model out, and never a worse one.

    take in -> clone on a branch -> validate, drift, mix, train, compare (the graph's stages) -> gate -> register
    -> challenger on trial -> verdict -> promote or withdraw -> tell

Each step finds out by itself whether it was done, from git, DVC, the registry, the pointer and the experiment's row: a
run that is killed goes on when it is started again, and one generation of new data is trained, registered and judged
once. A lock of each name makes two triggers at once one run. Of how a generation ended one small file is kept.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from components.durable import write_whole
from components.inference import pointer
from components.inference.traffic import Traffic
from components.inference.traffic_tables import database
from flows.bridge import push
from flows.continuous import gate, generation, incoming, notify, trial
from flows.continuous.generation import Generation
from flows.continuous.settings import Settings, read_settings
from flows.graph import one_line
from flows.pipeline import Watchman, pipeline
from flows.processes import alone
from flows.releases import rollout
from flows.workspace import ROOT, Refused

T = TypeVar("T")
FINAL = ("Promoted", "Kept", "Stopped", "Declined")  # a generation that ended so is not begun again
REFUSALS = (ValueError, OSError, SQLAlchemyError)  # as things are it cannot be done; later it can

step = task(cache_policy=NO_CACHE, persist_result=False)
edge = task(cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=5)  # it speaks to remotes


@flow(persist_result=False)
def continuous_training(
    name: str, repo: str | None = None, serving: str | None = None, reason: str = "a person"
) -> State[Any]:
    """Retrain a model on what is new, and promote it if it is better.

    Ends as Promoted, Kept, Stopped (by the experiment, or by hand), Declined (by the gate), Known (this data led to one
    of these before), Nothing new, Joined (a run of this name is at work), Cancelled, Refused or Failed: then it may be
    started again.

    Args:
        name: of continuous.yaml.
        repo: the repository's root. Default: the checkout that this flow belongs to.
        serving: the serving folder. Default: TSUMUGI_SERVING, or .store/serving in the repository.
        reason: what started it.
    """
    root = Path(repo) if repo else ROOT
    log = get_run_logger()
    log.info("retraining of %s, started by %s", name, reason)
    with alone(store(root) / f"{name}.lock", wait=False) as mine:
        if not mine:
            return Completed(name="Joined", message=f"a run of {name} is at work: it, or the next one, sees to this")
        settings = None
        try:
            settings = read_settings(root, name)
            state = take_in(root, name, settings)
            if not state:
                return Completed(name="Nothing new", message=f"{settings.watched(root)} has no record that is new")
            made = Generation.of(root, name, state, settings)
            known = outcome(made)
            if known and known["outcome"] in FINAL:
                return Completed(name="Known", message=f"generation {made.key} ended before: {known['outcome']}")
            return _run(made, settings, state, served(root, serving))
        except Exception as error:
            reason = one_line(error)
            log.error(reason)
            tell_refused(root, name, reason, settings.notify if settings else "")
            if not isinstance(error, REFUSALS):
                raise
            return Failed(name="Refused", message=reason)


def _run(made: Generation, settings: Settings, state: str, serving: Path) -> State[Any]:
    prepare(made, settings, inbox(made.root, made.name) / state)
    ran = pipeline.fn(str(made.folder), targets=[f"drift@{made.name}", f"compare@{made.name}"])
    if not ran.is_completed():
        if ran.is_failed():
            conclude(made, settings, {"outcome": "Failed", "reasons": [ran.message or ""]})
        return ran  # failed or cancelled
    found = judge(made)
    if not found["passed"]:
        return _end(made, settings, {"outcome": "Declined", "reasons": found["reasons"]})
    version = register(made)
    with Traffic(database(serving)) as traffic:
        deploy_challenger(made, settings, serving, traffic, version)
        verdict = experiment(made, settings, serving, traffic)
        decision, reasons = verdict["decision"], list(verdict["reasons"])
        if decision == "promote" and (by_hand := promote(made, settings, serving, traffic, version)):
            decision, reasons = "stop", [by_hand]
    if decision != "promote":
        withdraw(made, serving)
    ended = {"promote": "Promoted", "stop": "Stopped", "keep": "Kept"}[decision]
    return _end(made, settings, {"outcome": ended, "version": version, "reasons": reasons})


def _end(made: Generation, settings: Settings, ended: dict[str, Any]) -> State[Any]:
    conclude(made, settings, ended)
    message = f"{made.name} {ended.get('version', '')} ({made.key}): {'; '.join(ended['reasons'])}"
    return Completed(name=ended["outcome"], message=message)


@step
def take_in(root: Path, name: str, settings: Settings) -> str:
    """Copy what has arrived and main has not; the hash of it, empty where there is nothing."""
    source, store = settings.watched(root), inbox(root, name)
    seen = incoming.seen(store).get(incoming.arrived(source), "")
    own = Generation.of(root, name, seen, settings).new  # a run that was killed may have brought its own to main
    known = incoming.taken(root, name, settings.main, own)
    state = incoming.take(source, store, settings.source.splits.values(), known)
    get_run_logger().info("%s: state %s", source, state or "nothing new")
    return state


@step
def prepare(made: Generation, settings: Settings, data: Path) -> None:
    """The clone, its parameters, and the new data under DVC."""
    generation.prepare(made, settings, data)
    get_run_logger().info("%s on branch %s", made.folder, made.branch)


@step
def judge(made: Generation) -> dict[str, Any]:
    """The gate: what `compare` measured, and whether that is enough."""
    found = gate.read(made.folder, made.name)
    gate.show(made.name, found)
    get_run_logger().info("gate: %s", "passed" if found["passed"] else "; ".join(found["reasons"]))
    return found


@edge
def register(made: Generation) -> str:
    """Data and models to the remote, then branch and tag: what is registered can be had elsewhere."""
    push(made.folder, get_run_logger().info)
    version = generation.publish(made)
    get_run_logger().info("%s@%s", made.name, version)
    return version


@step
def deploy_challenger(made: Generation, settings: Settings, serving: Path, traffic: Traffic, version: str) -> None:
    """The new version beside the champion."""
    design = settings.design(made.experiment)
    _until(lambda: trial.begin(made.root, serving, traffic, made.name, version, design) is None, made, settings)


@step
def experiment(made: Generation, settings: Settings, serving: Path, traffic: Traffic) -> dict[str, Any]:
    """Look until the trial has ended; the verdict as its row has it."""
    design, log, told = settings.design(made.experiment), get_run_logger(), ()

    def look() -> dict[str, Any] | None:
        nonlocal told
        if not (verdict := trial.ended(traffic, made.experiment)):
            found = trial.settle(serving, traffic, made.name, design, settings.patience)
            if found.decision != "continue":
                return trial.ended(traffic, made.experiment)
            if found.reasons != told:
                log.info("%s", " ".join(found.reasons))
                told = found.reasons
        return verdict

    verdict = _until(look, made, settings)
    gate.show_verdict(made.name, verdict)
    log.info("%s: %s", verdict["decision"], " ".join(verdict["reasons"]))
    return verdict


def _until(ask: Callable[[], T | None], made: Generation, settings: Settings) -> T:
    """What `ask` gives in the end: asked again while it gives nothing, and while the traffic database is away."""
    watchman = Watchman()
    while True:
        try:
            if answer := ask():
                return answer
        except (OperationalError, InterfaceError) as error:
            get_run_logger().warning("the traffic database is asked again: %s", one_line(error))
        if watchman.stop():
            raise Refused(f"experiment {made.experiment}: left as it is, for this run was ended: start it again")
        time.sleep(settings.look)


@edge
def promote(made: Generation, settings: Settings, serving: Path, traffic: Traffic, version: str) -> str:
    """The pointer and the registry's stage first, for they serve people; then main.

    Returns:
        What somebody has changed by hand since the trial began: then nothing is promoted. Empty where nothing was.
    """
    if pointer.read(pointer.place(serving, made.name)).champion.version != version:
        if by_hand := trial.changed(serving, traffic, made.name, made.experiment):
            return by_hand
        rollout.deploy(made.root, serving, made.name, version)
    generation.advance(made, settings.main)
    return ""


@step
def withdraw(made: Generation, serving: Path) -> None:
    """The champion serves alone again, unless somebody has put another version on trial meanwhile."""
    challenger = pointer.read(pointer.place(serving, made.name)).challenger
    if challenger and challenger.experiment == made.experiment:
        rollout.withdraw(made.root, serving, made.name)


@step
def conclude(made: Generation, settings: Settings, ended: dict[str, Any]) -> None:
    """Keep how it ended, and tell it."""
    told = {"name": made.name, "key": made.key, "branch": made.branch, **ended}
    write_whole(_outcome(made), (json.dumps(told, indent=1) + "\n").encode())
    _refusal(made.root, made.name).unlink(missing_ok=True)
    generation.prune(made)
    if deaf := notify.tell(made.name, told, settings.notify):
        get_run_logger().warning(deaf)


def tell_refused(root: Path, name: str, reason: str, address: str) -> None:
    """Tell that a run could not go on, and why; once, however often it is started again and meets the same."""
    path, told = _refusal(root, name), {"name": name, "key": "", "outcome": "Refused", "reasons": [reason]}
    with suppress(OSError):  # the disk may be full: then it is told each time
        if path.exists() and json.loads(path.read_text()) == told:
            return
        write_whole(path, (json.dumps(told, indent=1) + "\n").encode())
    if deaf := notify.tell(name, told, address):
        get_run_logger().warning(deaf)


def outcome(made: Generation) -> dict[str, Any] | None:
    """How a generation ended; None where it has not."""
    return json.loads(_outcome(made).read_text()) if _outcome(made).exists() else None


def _outcome(made: Generation) -> Path:
    return store(made.root) / made.name / f"{made.key}.json"


def _refusal(root: Path, name: str) -> Path:
    return store(root) / name / "refused.json"


def store(root: Path) -> Path:
    """Locks and outcomes."""
    return root / ".store" / "continuous"


def served(root: Path, serving: str | None) -> Path:
    """The serving folder, as told by a parameter, else by the variable that a worker has inherited."""
    return Path(serving or os.environ.get("TSUMUGI_SERVING") or root / ".store" / "serving")


def inbox(root: Path, name: str) -> Path:
    """What was taken in."""
    return root / ".store" / "incoming" / name
