"""The flow that people and schedules start: the whole roadmap, phase after phase, in a workspace or in a fresh clone.

The stages of all phases become task runs of this one flow run, so that its page shows one graph. A phase begins when
the one before it ended well; what a phase needs of earlier ones is part of it, and is up to date by then.
"""

import shutil
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State, StateType
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.bridge import Bridge
from flows.pipeline import pipeline
from flows.workspace import ROOT, Refused, check_parameters, fresh_workspace


@flow(persist_result=False)
def roadmap(
    repo: str | None = None, fresh: bool = False, phases: list[int] | None = None, groups: list[str] | None = None
) -> State[Any]:
    """Bring every phase of a DVC repository up to date, in order.

    Args:
        repo: the repository's root. Default: the checkout that this flow belongs to.
        fresh: do it in a new clone of what is committed there, kept under runs/fresh until the next one has ended.
        phases: only these. Default: every phase (meta.phase) that a stage names, then the stages that name none.
        groups: only stages of these (meta.group), and what they need. Default: all.
    """
    root = Path(repo) if repo else ROOT
    if not fresh:
        return _run_phases(root, phases, groups or [])
    clone = fresh_workspace(root, flow_run.name)
    get_run_logger().info("fresh clone: %s", clone)
    try:
        check_parameters(clone)
    except Refused as error:
        return Failed(name="Refused", message=str(error))
    state = _run_phases(clone, phases, groups or [])
    for older in set(clone.parent.iterdir()) - {clone}:
        shutil.rmtree(older)
    return state


def _run_phases(root: Path, phases: list[int] | None, groups: list[str]) -> State[Any]:
    nodes = Bridge(root).graph().values()
    known = sorted({node.needs.group for node in nodes if node.needs.group})
    if foreign := [group for group in groups if group not in known]:
        return Failed(name="Refused", message=f"no stage is of group {foreign[0]!r}: known are {', '.join(known)}")
    named = [node.needs.phase for node in nodes if not groups or node.needs.group in groups]
    filters = [[phase] for phase in sorted(phases or {phase for phase in named if phase is not None})]
    if not phases and (None in named or not named):
        filters.append([])  # no filter: whatever is left
    state = Failed()
    for phase in filters:
        state = pipeline.fn(str(root), phases=phase, groups=groups)
        if state.type != StateType.COMPLETED:
            break
    return state
