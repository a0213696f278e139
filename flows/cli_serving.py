"""The part of the `tsumugi` command that serves: serve, up, key, experiment."""

import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import psutil
import typer
from rich.console import Console
from rich.table import Table

from flows import processes, server
from flows.workspace import ROOT, SERVING, Refused

if TYPE_CHECKING:
    from components.inference.traffic import Traffic

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False, soft_wrap=True)

PICTURES = ROOT / "data" / "shards" / "world_pictures" / "test"
Serving = Annotated[Path, typer.Option(envvar="TSUMUGI_SERVING", help="The serving folder.")]
Host = Annotated[str, typer.Option(help="Address to listen at; one that others reach needs --keys.")]
Keys = Annotated[Path | None, typer.Option(help="A file of hashed API keys (`tsumugi key`); none: open.")]
Pictures = Annotated[Path, typer.Option(help="What is searched: shards, or a folder of pictures.")]
Device = Annotated[str | None, typer.Option(help="cpu (default) or cuda.", show_default=False)]
Threads = Annotated[int | None, typer.Option(min=1, help="Of torch, 1 by default.", show_default=False)]
Slots = Annotated[int | None, typer.Option(min=1, help="Streams decoded together, 16 by default.", show_default=False)]
Rate = Annotated[float | None, typer.Option(help="Requests a second and key, 100 by default.", show_default=False)]


@app.command()
def serve(
    port: Annotated[int, typer.Option(min=0, help="Of the server; 0 for a free one.")] = 8000,
    host: Host = "127.0.0.1",
    keys: Keys = None,
    pictures: Pictures = PICTURES,
    device: Device = None,
    threads: Threads = None,
    slots: Slots = None,
    rate: Rate = None,
    serving: Serving = SERVING,
) -> None:
    """Serve what is deployed, with a playground at its address, until Ctrl-C.

    Models that this checkout has made and nobody has deployed yet are registered and deployed first.
    """
    _deploy_first(serving)
    arguments = _arguments(serving, pictures, keys, host, port, device=device, threads=threads, slots=slots, rate=rate)
    os.execv(sys.executable, [sys.executable, "-m", *arguments])


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, help="Of the models' server.")] = 8000,
    host: Host = "127.0.0.1",
    keys: Keys = None,
    pictures: Pictures = PICTURES,
    device: Device = None,
    threads: Threads = None,
    slots: Slots = None,
    rate: Rate = None,
    serving: Serving = SERVING,
) -> None:
    """Start Prefect's server, a worker and the models' server in the background; `tsumugi stop` ends them."""
    from flows.deployments import register

    _deploy_first(serving)
    url = server.ensure_server(None, console.print)
    os.environ["TSUMUGI_SERVING"] = str(serving.resolve())  # whose models the worker's runs look after
    with server.client(url) as client:
        worker = server.ensure_worker(url, register(client, ROOT))
    looked = Path(psutil.Process(worker.pid).environ().get("TSUMUGI_SERVING", SERVING)).resolve()
    if looked != serving.resolve():
        raise processes.Unavailable(f"the worker that runs looks after {looked}: `tsumugi stop` first")
    arguments = _arguments(serving, pictures, keys, host, port, device=device, threads=threads, slots=slots, rate=rate)
    own = processes.ensure_serving(arguments, host, port, console.print)
    console.print(f"flows   {url.removesuffix('/api')}\nmodels  {own.url}")


@app.command()
def key(
    file: Annotated[Path, typer.Argument(help="Made where it is missing; `serve --keys FILE` follows its changes.")],
    name: Annotated[str, typer.Argument(help="Of whom the key is for, as logs and limits know them.")],
) -> None:
    """Make an API key and print it, once: the file keeps its hash alone. Who is to be shut out is taken out of it."""
    from components.inference.server.keys import new_key

    try:
        print(new_key(file, name))
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from None


def _arguments(serving: Path, pictures: Path, keys: Path | None, host: str, port: int, **others: Any) -> list[str]:
    """Of `python -m`, with absolute paths: what runs already is known by them."""
    options = {"serving": serving.resolve(), "keys": keys.resolve() if keys else "none", "host": host, "port": port}
    options |= {"pictures": pictures.resolve()} if pictures.is_dir() else {}
    options |= {name: value for name, value in others.items() if value is not None}
    return ["flows.stages.serving", *(part for name, value in options.items() for part in (f"--{name}", str(value)))]


def _deploy_first(serving: Path) -> None:
    from flows.releases import first

    try:
        for now in first.deploy(ROOT, serving):
            console.print(f"{now.name}: {now.champion.version} of this checkout is registered and deployed")
    except Refused as error:
        if not any(serving.glob("*.json")):
            raise
        console.print(f"Not deployed: {error}")
    if not any(serving.glob("*.json")):
        names = ", ".join(first.models(ROOT)) or "a model: dvc.yaml has none under `artifacts`"
        raise Refused(f"no model is deployed, and there is none of {names}: `make run GROUP=production` makes them")


@app.command()
def experiment(
    name: Annotated[str | None, typer.Argument(help="An experiment's id; without it, all are listed.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write report.html and report.json to this folder.")] = None,
    plan: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Say how many users the experiment of this model will need.")
    ] = None,
    users_per_day: Annotated[
        float | None, typer.Option(help="With --plan, also for how many days: new users a day, of both arms.")
    ] = None,
    serving: Serving = SERVING,
    repo: Annotated[Path, typer.Option(help="The repository whose continuous.yaml --plan reads.")] = ROOT,
) -> None:
    """List the experiments, or show one: the verdict, its reasons, and each metric's interval."""
    from flows.traffic import known, opened

    if plan:
        _plan(repo, plan, users_per_day)
        return
    url = known(serving)
    if url is None:
        raise Refused(f"{serving} holds no traffic database: a server makes it, or name another one by --serving")
    with opened(url) as traffic:
        rows = traffic.experiments()
        row = next((row for row in rows if row["id"] == name), None)
        if name is None:
            _list(rows)
        elif row is None:
            ids = ", ".join(row["id"] for row in rows) or "none yet"
            raise Refused(f"there is no experiment {name}: known are {ids}")
        else:
            _show(traffic, row, page)


def _list(rows: list[dict[str, Any]]) -> None:
    table = Table("experiment", "model", "champion", "challenger", "state", "verdict", box=None, pad_edge=False)
    for row in rows:
        decision = (row["verdict"] or {}).get("decision", "")
        table.add_row(row["id"], row["name"], row["champion"], row["challenger"], row["state"], decision)
    console.print(table if rows else "no experiment was planned yet")


def _show(traffic: "Traffic", row: dict[str, Any], page: Path | None) -> None:
    """The verdict: as it was written down where the experiment has ended, else on what was logged so far."""
    from components.inference.experiment import config, report
    from flows.continuous import trial

    try:
        design = config.design(row["config"])
        ended = row["verdict"] if row["state"] == "ended" else None
        found = ended or asdict(trial.look(traffic, design))
        console.print(f"{row['state'].title()}. {report.TITLES[found['decision']]}. " + " ".join(found["reasons"]))
        table = Table("metric", "champion", "challenger", "difference", "interval", box=None, pad_edge=False)
        for each in found["estimates"]:
            interval = f"{_figure(each['low'], '+')} to {_figure(each['high'], '+')}"
            figures = (_figure(each["champion"]), _figure(each["challenger"]), _figure(each["difference"], "+"))
            table.add_row(each["metric"], *figures, interval)
        console.print(table)
        if page:
            verdicts = trial.history(traffic, design)
            if ended:
                verdicts[-1] = replace(verdicts[-1], decision=ended["decision"], reasons=tuple(ended["reasons"]))
            report.write(page, design, verdicts)
            console.print(f"Report: {page / 'report.html'}")
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from None


def _plan(repo: Path, name: str, users_per_day: float | None) -> None:
    """Users of each metric: to find a gain of the primary ones, or to know that no guardrail is broken."""
    from components.inference.experiment import planning
    from flows.continuous.settings import read_settings

    design = read_settings(repo, name).design(name)
    table = Table("metric", "effect", "users, one look", "any look", "on average", "days", box=None, pad_edge=False)
    needed = 0
    try:
        for metric in design.primary + design.guardrails:
            primary = metric in design.primary
            alpha = design.alpha if primary else 2 * design.alpha / len(design.guardrails)  # one-sided
            lost: Literal["lower", "higher"] = "lower" if metric.better == "higher" else "higher"
            sought = metric if primary else replace(metric, better=lost)  # a guardrail's effect is a loss
            parts = len(design.primary) if primary else 1
            found = planning.plan(sought, design.share, alpha, design.power, parts)
            days = f"{found.days(users_per_day):.1f}" if users_per_day is not None else ""
            users = (f"{each:,}" for each in (found.fixed, found.sequential, found.expected))
            table.add_row(metric.name, f"{metric.effect:g} {metric.unit}".strip(), *users, days)
            needed = max(needed, found.sequential)
    except ValueError as error:
        raise Refused(str(error)) from None
    console.print(table)
    enough = "enough" if needed <= design.most_users else f"too few: {needed:,} find each effect"
    console.print(f"share {design.share:g}, power {design.power:g}; most_users {design.most_users:,}: {enough}")


def _figure(value: float | None, sign: str = "") -> str:
    return "open" if value is None or not math.isfinite(value) else f"{value:{sign}.4g}"
