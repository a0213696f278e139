"""`tsumugi ct`: the part of the command that looks after continuous training.

Exit status: 0 done; 1 a retraining failed; 2 refused, and nothing was changed.
"""

import json
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from flows import server
from flows.cli_serving import Serving
from flows.continuous.settings import read_settings
from flows.workspace import ROOT, SERVING

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Continuous training: start it, and look at it.")
console = Console(highlight=False, soft_wrap=True)
Name = Annotated[str, typer.Argument(help="A model of continuous.yaml.")]


@app.command()
def start(name: Name) -> None:
    """Have a model retrained on what is new: the event that says so starts a run of the deployment `continuous`."""
    from flows.deployments import register

    read_settings(ROOT, name)  # refuse before a server is started
    url = server.ensure_server(None, console.print)
    with server.client(url) as client:
        server.ensure_worker(url, register(client, ROOT))
        run = ask(client, name)
    pages = f"{url.removesuffix('/api')}/runs"
    console.print(f"Run {run['name']}: {pages}/flow-run/{run['id']}" if run else f"{name} is asked for; runs: {pages}")


def ask(client: httpx.Client, name: str) -> dict[str, Any] | None:
    """Tell Prefect's server that a retraining is asked for; the run that this starts, unless it takes over a minute."""
    from flows.continuous.notify import resource

    event = "tsumugi.retraining.asked"
    now = datetime.now(UTC).isoformat()
    told = {
        "id": str(uuid.uuid4()),
        "event": event,
        "occurred": now,
        "resource": resource(name),
        "payload": {"name": name},
    }
    client.post("/events", json=[told]).raise_for_status()
    wanted = {
        "deployments": {"name": {"any_": ["continuous"]}},
        "flow_runs": {"expected_start_time": {"after_": now}},
    }
    for _ in range(120):
        for run in client.post("/flow_runs/filter", json=wanted).raise_for_status().json():
            if run["parameters"].items() >= {"name": name, "reason": event}.items():
                return run
        time.sleep(0.5)
    return None


@app.command()
def outcomes() -> None:
    """List how the retrainings of this checkout ended, newest last."""
    table = Table("model", "generation", "outcome", "version", "why", box=None, pad_edge=False)
    files = [path for path in (ROOT / ".store" / "continuous").glob("*/*.json") if path.stem != "told"]
    for path in sorted(files, key=lambda path: path.stat().st_mtime):
        ended = json.loads(path.read_text())
        why = "; ".join(ended["reasons"])
        table.add_row(ended["name"], ended["key"], ended["outcome"], ended.get("version", ""), why)
    console.print(table if files else "nothing was retrained yet")


@app.command()
def thumbs(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Gets pairs.jsonl and thumbs.jsonl.")],
    serving: Serving = SERVING,
) -> None:
    """Write people's thumbs as preference data, which `ingest` takes."""
    from components.inference.traffic import Traffic
    from components.inference.traffic_tables import database
    from flows.continuous.preferences import export

    with Traffic(database(serving)) as traffic:
        pairs, judged = export(traffic, name, folder)
    console.print(f"{pairs} pairs and {judged} judged answers in {folder}")
