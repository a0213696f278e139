"""The `tsumugi` command: what make wraps. It starts things and looks at them; a flow does the work."""

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import typer
from rich.console import Console
from rich.table import Table

from flows import cli_continuous, cli_production, cli_serving, leftovers, processes, results, server, workspace
from flows.deployments import register
from flows.processes import Unavailable
from flows.watch import Watch
from flows.workspace import ROOT, Refused

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
app.add_typer(cli_serving.app)
app.add_typer(cli_production.app)
app.add_typer(cli_continuous.app, name="ct")
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)  # logs are wide

Preset = Annotated[
    str | None, typer.Option(help="Compute with presets/PRESET.yaml over params.yaml, in the clone runs/PRESET.")
]
Data = Annotated[Path | None, typer.Option(help="The folder that holds your sets; linked as data/raw.")]
Port = Annotated[
    int | None,
    typer.Option(help="Port of the Prefect server, where none runs yet (4200). PREFECT_API_URL names any other one."),
]

Groups = Annotated[
    list[str] | None,
    typer.Option("--group", help="Stages of this group (meta.group in dvc.yaml), with what they need; core if none."),
]


@app.callback()
def tsumugi() -> None:
    """Continuous training for Transformers: one DVC graph, run by Prefect.

    `tsumugi run` takes the demo from its data to a report and leaves a server up for looking; `tsumugi stop` ends it.
    Exit status: 0 done, 1 a stage failed, 2 refused before anything ran, 130 cancelled.
    """


@app.command()
def run(preset: Preset = None, group: Groups = None, data: Data = None, port: Port = None) -> None:
    """Run every stage of a group that is out of date, and show the results.

    Starts a Prefect server and a worker if there is none, registers what prefect.yaml holds, starts the flow `roadmap`
    and follows it. Ctrl-C cancels the run; stages that had finished stay finished, and the next run goes on from there.
    """
    folder = _workspace(preset, data)
    workspace.check_parameters(folder)
    anew = not (processes.started("server") or processes.started("worker"))
    url = server.ensure_server(port, console.print)
    with server.client(url) as client:
        if anew and processes.started("server"):
            for name in leftovers.crash(client):
                console.print(f"Run {name} of an earlier start had lost its process: marked Crashed")
        server.ensure_worker(url, register(client, ROOT))
        deployment = client.get("/deployments/name/roadmap/run").raise_for_status().json()
        groups = group or ["core"]
        wanted = {
            "parameters": {"repo": str(folder), "groups": groups},
            "state": {"type": "SCHEDULED"},
            "tags": [preset or "demo", *groups],
        }
        started = client.post(f"/deployments/{deployment['id']}/create_flow_run", json=wanted).raise_for_status().json()
        console.print(f"Run {started['name']}: {url.removesuffix('/api')}/runs/flow-run/{started['id']}")
        watch = Watch(client, started["id"], console)
        ended = _follow(watch)
        if ended == "COMPLETED":
            results.show(folder, groups, console)
        elif ended != "CANCELLED":
            watch.explain()
        console.print(watch.summary())
    raise typer.Exit({"COMPLETED": 0, "CANCELLED": 130}.get(ended, 1))


def _follow(watch: Watch) -> str:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        return watch.follow()
    except KeyboardInterrupt:
        console.print("Cancelling the run; Ctrl-C again leaves it to end by itself")
        watch.cancel()
        return watch.follow()


def _workspace(preset: str | None, data: Path | None) -> Path:
    if preset:
        folder = workspace.preset_workspace(ROOT, preset, data)
        console.print(f"Workspace: {folder}")
        return folder
    workspace.check_checkout(ROOT)
    workspace.link_data(ROOT, data)
    return ROOT


@app.command()
def preset(
    name: Annotated[str | None, typer.Argument(help="A file of presets/, without .yaml.")] = None, data: Data = None
) -> None:
    """Make the workspace of a preset, to work in by hand; without a name, list the presets."""
    if name is None:
        for path in sorted((ROOT / "presets").glob("*.yaml")):
            console.print(f"{path.stem:12}{path.read_text().partition(chr(10))[0].lstrip('# ')}")
        return
    folder = _workspace(name, data)
    workspace.check_parameters(folder)
    console.print(f"There, `dvc repro` computes what `tsumugi run --preset {name}` does")


@app.command()
def stop() -> None:
    """Stop the servers and the worker that were started here, with the runs that they hold; nothing else."""
    own = processes.started("server")
    if own and processes.started("worker"):
        with server.client(own.url) as client:
            for run in leftovers.cancel(client):
                console.print(f"Cancelled run {run}")
    stopped = [process for name in ("serving", "worker", "server") if (process := processes.stop(name))]
    for process in stopped:
        console.print(f"Stopped the {process.name} (process {process.pid})")
    if not stopped:
        console.print("Nothing that was started here runs")


@app.command()
def status(port: Port = None) -> None:
    """Show the server, the worker, the last runs, and when the next one is scheduled."""
    url = server.address(port)
    for name in ("server", "worker", "serving"):
        own = processes.started(name)
        console.print(
            f"{name:10}{f'process {own.pid}, started here, log {processes.log(name)}' if own else 'none started here'}"
        )
    if not server.answers(url):
        raise Unavailable(f"no Prefect server answers at {url}: `make run` starts one")
    with server.client(url) as client:
        names = {
            known["id"]: known["name"]
            for known in client.post("/deployments/filter", json={}).raise_for_status().json()
        }
        console.print(f"{'address':10}{url.removesuffix('/api')}")
        past = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
        _table(client, names, past, "EXPECTED_START_TIME_DESC", 5, "last runs")
        coming = {"state": {"type": {"any_": ["SCHEDULED"]}}}
        _table(client, names, coming, "EXPECTED_START_TIME_ASC", 200, "scheduled")


def _table(
    client: httpx.Client, names: dict[str, str], which: dict[str, Any], sort: str, limit: int, title: str
) -> None:
    top = {"flow_runs": which | {"parent_task_run_id": {"is_null_": True}}, "sort": sort, "limit": limit}
    table = Table(title, "deployment", "state", "start (UTC)", "seconds", box=None, pad_edge=False)
    runs = client.post("/flow_runs/filter", json=top).raise_for_status().json()
    if title == "scheduled":  # the next one of each: one that runs each minute would hide the others
        runs = {run["deployment_id"]: run for run in reversed(runs)}.values()
    for run in sorted(runs, key=lambda run: run["expected_start_time"], reverse=sort.endswith("DESC")):
        start = datetime.fromisoformat(run["start_time"] or run["expected_start_time"]).astimezone(UTC)
        seconds = f"{run['total_run_time']:.0f}" if run["start_time"] else ""
        table.add_row(
            run["name"], names.get(run["deployment_id"], ""), run["state_name"], f"{start:%Y-%m-%d %H:%M}", seconds
        )
    console.print(table)


def main() -> NoReturn:
    """Run the command; what was refused is said in one line."""
    try:
        app()
    except (Refused, Unavailable) as error:
        print(f"tsumugi: {error}", file=sys.stderr)
    except httpx.HTTPError as error:
        print(f"tsumugi: the Prefect server failed ({error}): see {processes.log('server')}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
