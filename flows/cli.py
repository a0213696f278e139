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

from components.inference import pointer
from flows import (
    cli_continuous,
    cli_production,
    cli_serving,
    deployments,
    leftovers,
    processes,
    results,
    server,
    workspace,
)
from flows.cli_serving import Serving
from flows.processes import Unavailable
from flows.watch import Watch
from flows.workspace import ROOT, SERVING, Refused

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
        server.ensure_worker(url, deployments.register(client, ROOT))
        groups = group or ["core"]
        wanted = {"repo": str(folder), "groups": groups}
        started = deployments.start(client, "roadmap/run", wanted, [preset or "demo", *groups])
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
def status(port: Port = None, serving: Serving = SERVING) -> None:
    """Show the models that are served, the servers, the worker, the last runs, and when the next one is scheduled."""
    url = server.address(port)
    for name in ("server", "worker", "serving"):
        own = processes.started(name)
        console.print(
            f"{name:10}{f'process {own.pid}, started here, log {processes.log(name)}' if own else 'none started here'}"
        )
    _models(serving)
    if not server.answers(url):
        console.print(f"no Prefect server answers at {url}: `make run` starts one")
        return
    with server.client(url) as client:
        known = client.post("/deployments/filter", json={}).raise_for_status().json()
        names = {each["id"]: each["name"] for each in known}
        console.print(f"{'address':10}{url.removesuffix('/api')}")
        past = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}
        _table("last runs", _runs(client, past, "EXPECTED_START_TIME_DESC", 5), names)
        coming = _runs(client, {"state": {"type": {"any_": ["SCHEDULED"]}}}, "EXPECTED_START_TIME_ASC", 200)
        nearest = {run["deployment_id"]: run for run in reversed(coming)}  # one that runs each minute would hide others
        _table("scheduled", sorted(nearest.values(), key=lambda run: run["expected_start_time"]), names)


def _models(serving: Path) -> None:
    """What the pointers name, and by which version the server of this machine answers."""
    own = processes.started("serving")
    url = own.url if own else "http://127.0.0.1:8000"  # of `tsumugi serve`
    try:
        told = httpx.get(f"{url}/readyz", timeout=5).json()
        answering, missing = told["serving"], told["missing"]
    except (httpx.HTTPError, ValueError, LookupError, TypeError):  # nobody, or another program
        answering, missing = {}, {}
    table = Table("models", "champion", "on trial", f"answering at {url}", box=None, pad_edge=False)
    for path in sorted(serving.glob("*.json")):
        name, found = path.stem, answering.get(path.stem, {})
        versions = " and ".join(filter(None, (found.get("champion"), found.get("challenger"))))
        served = "; ".join(filter(None, (versions, missing.get(name)))) or "nobody"
        try:
            now = pointer.read(path)
        except ValueError as error:
            table.add_row(name, str(error), "", served)
            continue
        trial = now.challenger
        beside = f"{trial.version} ({trial.mode}, {trial.share:.0%})" if trial else ""
        table.add_row(name, now.champion.version, beside, served)
    console.print(table if table.row_count else f"no model is deployed in {serving}")


def _runs(client: httpx.Client, which: dict[str, Any], sort: str, limit: int) -> list[dict[str, Any]]:
    top = {"flow_runs": which | {"parent_task_run_id": {"is_null_": True}}, "sort": sort, "limit": limit}
    return client.post("/flow_runs/filter", json=top).raise_for_status().json()


def _table(title: str, runs: list[dict[str, Any]], names: dict[str, str]) -> None:
    table = Table(title, "deployment", "state", "start (UTC)", "seconds", box=None, pad_edge=False)
    for run in runs:
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
