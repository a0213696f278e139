"""What a retraining has to show for itself: the gate's figures and the experiment's verdict, in Prefect's UI."""

import json
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact

from flows.artifacts import key
from flows.workspace import Refused


def read(folder: Path, name: str) -> dict[str, Any]:
    """The gate.json that the stage `compare` left. Refused: it is not there or does not read."""
    path = folder / "reports" / "compare" / name / "gate.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: no evidence for the gate: {error}") from None


def show(name: str, gate: dict[str, Any]) -> None:
    """The gate as an artifact of the task that calls this."""
    rows = ["| on | champion | challenger | gain | 95% | records |", "|---|---|---|---|---|---|"]
    for side in ("fresh", "frozen"):
        rows.append(
            _row(side, gate[side]["champion"], gate[side]["challenger"], gate[side]["gain"], gate[side]["count"])
        )
        rows += [
            _row(f"{side}: {cut}", "", "", each["gain"], each["count"]) for cut, each in gate[side]["slices"].items()
        ]
    ratios = f"Latency {gate['latency']['ratio']:.2f} and size {gate['size']['ratio']:.2f} times the champion's."
    verdict = "**Passed.**" if gate["passed"] else "**Refused:** " + "; ".join(gate["reasons"])
    head = f"{verdict} Gains in {gate['metric']} are turned so that more is better. {ratios}"
    create_markdown_artifact(f"{head}\n\n" + "\n".join(rows), key=key("gate", name), description=f"Gate of {name}")


def show_verdict(name: str, verdict: dict[str, Any]) -> None:
    """A verdict as an artifact of the task that calls this."""
    told = "\n".join(f"- {reason}" for reason in verdict["reasons"])
    users = f"{verdict['champion_users']} users of the champion, {verdict['challenger_users']} of the challenger."
    content = f"**{verdict['decision']}** after {users}\n\n{told}"
    create_markdown_artifact(content, key=key("verdict", name), description=f"Verdict on {name}'s challenger")


def _row(name: str, champion: Any, challenger: Any, gain: dict[str, float], count: int) -> str:
    figures = (f"{each:.4f}" if isinstance(each, float) else each for each in (champion, challenger))
    interval = f"{gain['low']:+.4f} to {gain['high']:+.4f}"
    return f"| {name} | {' | '.join(figures)} | {gain['value']:+.4f} | {interval} | {count} |"
