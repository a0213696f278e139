"""The part of the `tsumugi` command that serves: serve, up, experiment."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows import processes, server
from flows.workspace import ROOT, Refused

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False, soft_wrap=True)

SERVING = ROOT / ".store" / "serving"
PICTURES = ROOT / "data" / "shards" / "world_pictures" / "test"
Serving = Annotated[Path, typer.Option(help="The serving folder.")]
ServePort = Annotated[int, typer.Option(help="Of the server; 0 for a free one.")]
Keys = Annotated[str, typer.Option(help="A file of hashed API keys; none: open, on 127.0.0.1 alone.")]
Pictures = Annotated[Path, typer.Option(help="What is searched: shards, or a folder of pictures.")]


@app.command()
def serve(
    port: ServePort = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    keys: Keys = "none",
    pictures: Pictures = PICTURES,
    serving: Serving = SERVING,
) -> None:
    """Serve what is deployed, with a playground at its address, until Ctrl-C.

    Where nothing is deployed yet, the models that this checkout has made are registered and deployed first.
    """
    _deploy_first(serving)
    os.execv(sys.executable, [sys.executable, "-m", *_arguments(serving, pictures, keys, host, port)])


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, help="Of the models' server.")] = 8000,
    keys: Keys = "none",
    pictures: Pictures = PICTURES,
    serving: Serving = SERVING,
) -> None:
    """Start Prefect's server, a worker and the models' server in the background; `tsumugi stop` ends them."""
    from flows.deployments import register

    _deploy_first(serving)
    url = server.ensure_server(None, console.print)
    with server.client(url) as client:
        server.ensure_worker(url, register(client, ROOT))
    own = processes.ensure_serving(_arguments(serving, pictures, keys, "127.0.0.1", port), port, console.print)
    console.print(f"flows   {url.removesuffix('/api')}\nmodels  {own.url}")


def _arguments(serving: Path, pictures: Path, keys: str, host: str, port: int) -> list[str]:
    shown = ["--pictures", str(pictures)] if pictures.is_dir() else []
    options = ["--serving", str(serving), "--keys", keys, "--host", host, "--port", str(port), *shown]
    return ["flows.stages.serving", *options]


def _deploy_first(serving: Path) -> None:
    from components.inference import pointer
    from flows.releases import first

    names = first.models(ROOT)
    if any(pointer.place(serving, name).exists() for name in names):
        return
    deployed = first.deploy(ROOT, serving)
    for now in deployed:
        console.print(f"{now.name}: {now.champion.version} of this checkout is registered and deployed")
    if not deployed:
        raise Refused(
            f"no model is deployed, and none of {', '.join(names)} is made yet: `make run GROUP=production` makes them"
        )


@app.command()
def experiment(
    name: Annotated[str | None, typer.Argument(help="An experiment's id; without it, all are listed.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write report.html and report.json to this folder.")] = None,
    serving: Serving = SERVING,
) -> None:
    """List the experiments, or show one: the verdict, its reasons, and each metric's interval."""
    from components.inference.traffic import Traffic
    from components.inference.traffic_tables import database

    with Traffic(database(serving)) as traffic:
        rows = traffic.experiments()
        if name is None:
            _list(rows)
            return
        row = next((row for row in rows if row["id"] == name), None)
        if row is None:
            known = ", ".join(row["id"] for row in rows) or "none yet"
            raise Refused(f"there is no experiment {name}: known are {known}")
        from components.inference.experiment import config, report
        from flows.continuous import trial

        design = config.design(row["config"])
        found = trial.look(traffic, design)
        console.print(f"{report.TITLES[found.decision]}. " + " ".join(found.reasons))
        table = Table("metric", "champion", "challenger", "difference", "interval", box=None, pad_edge=False)
        for each in found.estimates:
            interval = f"{each.low:+.4g} to {each.high:+.4g}"
            table.add_row(
                each.metric, f"{each.champion:.4g}", f"{each.challenger:.4g}", f"{each.difference:+.4g}", interval
            )
        console.print(table)
        if page:
            report.write(page, design, trial.history(traffic, design))
            console.print(f"Report: {page / 'report.html'}")


def _list(rows: list[dict]) -> None:
    table = Table("experiment", "model", "champion", "challenger", "state", "verdict", box=None, pad_edge=False)
    for row in rows:
        decision = (row["verdict"] or {}).get("decision", "")
        table.add_row(row["id"], row["name"], row["champion"], row["challenger"], row["state"], decision)
    console.print(table if rows else "no experiment was planned yet")
