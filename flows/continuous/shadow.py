"""A shadow's trial: what the challenger would have answered, beside what the champion did answer, request by request.

Nobody saw a shadow's answers, so nothing came of them, and primary metrics stay open: that the challenger is better,
the gate has found. Here it has to do no harm. It is promoted once both guardrails that need no outcome, `failed` and
`seconds`, are held and enough users were seen; stopped where one is broken. How often both answer the same is told,
and decides nothing: a challenger that never differs would be no gain.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from sqlalchemy import select

from components.inference.experiment.config import ARMS, JUDGED, Design
from components.inference.experiment.report import LOOKS
from components.inference.experiment.users import observe
from components.inference.experiment.verdict import Verdict, verdict
from components.inference.traffic import Observations, Traffic
from components.inference.traffic_tables import requests
from flows.releases.shadow import compare

Pair = dict[str, dict[str, Any]]  # arm -> row of requests
TOGETHER = 10_000  # ids in one question: SQLite takes 32,766 at most


def pairs(traffic: Traffic, experiment: str) -> list[Pair]:
    """Each copied request, as the champion and as the shadow answered it, in order of time."""
    query = select(*(requests.c[name] for name in ("id", "user", "time", "role", "status", "seconds", "output")))
    copied = (requests.c.experiment == experiment) & (requests.c.role == "shadow")
    with traffic.engine.connect() as connection:
        rows = connection.execute(query.where(copied).order_by(requests.c.time)).mappings()
        shadows = {row["output"]["shadow_of"]: dict(row) for row in rows if row["output"]}  # none: its server ended
        originals = {}
        for start in range(0, len(shadows), TOGETHER):
            some = requests.c.id.in_(list(shadows)[start : start + TOGETHER])
            rows = connection.execute(query.where(some)).mappings()
            originals |= {row["id"]: dict(row) for row in rows}
    return [dict(zip(ARMS, (originals[id], row), strict=True)) for id, row in shadows.items() if id in originals]


def judge(design: Design, found: list[Pair], until: float = np.inf) -> Verdict:
    """The verdict on the pairs up to a time (s since 1970), with how many of them agree among its reasons."""
    logs = {"failed": _log(found, "failed"), "seconds": _log(found, "seconds")}
    outcomes = {metric.name: logs.get(metric.name, {}) for metric in design.primary + design.guardrails}
    made = verdict(replace(design, share=0.5), observe(logs["failed"], outcomes, until))  # pairs: both arms are alike
    held = all(each.state == "held" for each in made.estimates if each.metric in JUDGED)
    enough = made.champion_users >= design.least_users and made.seconds >= design.least_seconds
    if made.decision != "stop" and held and enough:
        made = replace(made, decision="promote")
    same = agreement([pair for pair in found if pair["challenger"]["time"] <= until])
    return replace(made, reasons=(*made.reasons, same))


def history(design: Design, found: list[Pair]) -> list[Verdict]:
    """The verdicts that were to be had, evenly from the first pair to the last. ValueError where there is none."""
    if not found:
        raise ValueError(f"experiment {design.experiment}: no request was copied yet: there is nothing to report")
    first, last = (found[end]["challenger"]["time"] for end in (0, -1))
    return [judge(design, found, float(time)) for time in np.linspace(first, last, LOOKS + 1)[1:]]


def agreement(found: list[Pair]) -> str:
    """In words, how often both answered the same, of the answers that can be compared."""
    both = compare([row for pair in found for row in pair.values()])
    if not both.compared:
        return "agreement: no answers that can be compared."
    return f"agreement: {both.agreed / both.compared:.1%} of {both.compared:,} answers are the same."


def _log(found: list[Pair], metric: str) -> dict[str, Observations]:
    """One metric of both arms. A user is in both, and each side is counted as a user of its own: what a pair has in
    common makes the interval wider than it need be, never narrower."""

    def arm(name: str) -> Observations:
        rows = [pair[name] for pair in found if metric == "failed" or pair[name]["status"] < 400]
        values = [float(row["status"] >= 500) if metric == "failed" else row["seconds"] for row in rows]
        users = np.array([f"{name} {row['user']}" for row in rows], dtype=str)
        return Observations(users, np.array(values, np.float64), np.array([row["time"] for row in rows], np.float64))

    return {name: arm(name) for name in ARMS} if found else {}
