"""The part of the `tsumugi` command that looks after versions: register, deploy, rollback, versions, trace, doctor.

Exit status: 0 done; 1 doctor found something wrong; 2 refused, and nothing was changed.
"""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from components.inference.pointer import MODES, Pointer
from flows.cli_serving import Serving
from flows.workspace import ROOT, SERVING, Refused

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False, soft_wrap=True)

Name = Annotated[str, typer.Argument(help="A model's name, as dvc.yaml has it under `artifacts`.")]
Repo = Annotated[Path, typer.Option(help="The repository whose tags are asked.")]
Plain = Annotated[bool, typer.Option("--json", help="JSON for a program.")]


@app.command()
def register(
    name: Name,
    ref: Annotated[
        str | None, typer.Option(help="A commit, branch or tag with its dvc.lock; without it, this checkout as it is.")
    ] = None,
    repo: Repo = ROOT,
) -> None:
    """Make what was trained the next version of a name; it and its data go to origin and DVC remote, where they are."""
    from flows.releases import first, registry

    version = registry.register(repo, name, ref) if ref else first.register(repo, name)
    commit = registry.commit_of(repo, name, version)
    console.print(f"{name}@{version} is commit {commit[:10]}: `tsumugi deploy {name} {version}` serves it")


@app.command()
def deploy(
    name: Name,
    version: Annotated[str, typer.Argument(help="v1.2.0")],
    share: Annotated[
        float | None, typer.Option(min=0, max=1, help="On trial, for this share of the users (a shadow: requests).")
    ] = None,
    mode: Annotated[str, typer.Option(help=f"Of a trial: {' or '.join(MODES)}.")] = MODES[0],
    experiment: Annotated[
        str | None, typer.Option(help="Of a trial: its experiment's id.", show_default="NAME-VERSION-POINTER")
    ] = None,
    design: Annotated[
        Path | None, typer.Option(help="Of a trial: its design, a YAML file.", show_default="continuous.yaml's")
    ] = None,
    serving: Serving = SERVING,
    repo: Repo = ROOT,
) -> None:
    """Serve a version: its files are brought, checked, and pointed at. With --share beside the champion, on trial.

    What was on trial before is over then. `tsumugi experiment` shows what a trial finds.
    """
    from flows.continuous import by_hand

    if mode not in MODES:
        raise Refused(f"mode {mode!r} is none of {', '.join(MODES)}")
    if share is None:
        _say(by_hand.deploy(repo, serving, name, version))
    else:
        _say(by_hand.begin(repo, serving, name, version, {"share": share, "mode": mode}, experiment, design))


@app.command()
def rollback(
    name: Name,
    challenger: Annotated[bool, typer.Option("--challenger", help="Only end the challenger's trial.")] = False,
    serving: Serving = SERVING,
    repo: Repo = ROOT,
) -> None:
    """Serve the champion before the present one again; no version that was rolled back comes back by itself."""
    from flows.continuous import by_hand

    _say((by_hand.withdraw if challenger else by_hand.rollback)(repo, serving, name))


def _say(pointer: Pointer) -> None:
    trial = pointer.challenger
    beside = f", beside it {trial.version} ({trial.mode}, {trial.share:.0%})" if trial else ""
    console.print(f"{pointer.name}: champion {pointer.champion.version}{beside}; pointer {pointer.serial}")


@app.command()
def versions(
    name: Annotated[str | None, typer.Argument(help="Of this model only.")] = None,
    repo: Repo = ROOT,
    plain: Plain = False,
) -> None:
    """List the registered versions, newest last, and where they are."""
    from flows.releases import registry

    if name is not None:
        registry.check(name)
    found = [each for one in ([name] if name else registry.names(repo)) for each in registry.versions(repo, one)]
    if plain:
        print(json.dumps([vars(each) for each in found], indent=2))
        return
    table = Table("name", "version", "stage", "commit", "registered", box=None, pad_edge=False)
    for each in found:
        table.add_row(each.name, each.version, ", ".join(each.stages), each.commit[:10], each.time)
    console.print(table if found else "no version is registered yet")


@app.command()
def trace(
    what: Annotated[str, typer.Argument(help="An answer's id, NAME@VERSION, or NAME (its champion); see --forward.")],
    forward: Annotated[
        bool, typer.Option("--forward", help="From a path, an address or a hash to all versions that have seen it.")
    ] = False,
    page: Annotated[Path | None, typer.Option(help="Write a page with a picture of the chain to this file.")] = None,
    events: Annotated[
        str | None,
        typer.Option(help="Export as OpenLineage events: to a file (JSON lines), or to a server's http:// URL."),
    ] = None,
    serving: Serving = SERVING,
    repo: Repo = ROOT,
    plain: Plain = False,
) -> None:
    """Say where an answer or a version comes from; or where a source went."""
    if forward:
        _forward(repo, what, plain)
        return
    from flows.lineage import openlineage, view
    from flows.lineage.trace import as_dict, trace
    from flows.traffic import known

    found = trace(repo, what, known(serving))
    if plain:
        print(json.dumps(as_dict(found), indent=2))
    else:
        console.print(view.tree(found))
    if page:
        view.write_page(found, page)
        console.print(f"Page: {page}")
    if events and "://" in events:
        console.print(f"Sent {openlineage.send(found, events)} events to {events}")
    elif events:
        openlineage.write(found, Path(events))
        console.print(f"OpenLineage events: {events}")


def _forward(repo: Path, what: str, plain: bool) -> None:
    from flows.lineage.trace import seen

    found = seen(repo, what, lambda line: Console(stderr=True).print(line))
    if plain:
        print(json.dumps([vars(each) for each in found], indent=2))
        return
    if not found:
        raise Refused(f"no registered version has seen {what}: name a path, an address or a hash as dvc.lock has it")
    table = Table("version", "stage", "seen", "MD5", "by", box=None, pad_edge=False)
    for each in found:
        version = f"{each.name}@{each.version}"
        table.add_row(version, ", ".join(each.stages), each.place, each.hash[:10], each.step)
    console.print(table)


@app.command()
def doctor(serving: Serving = SERVING, repo: Repo = ROOT, plain: Plain = False) -> None:
    """Look at the machine and the checkout, say what is wrong and how to mend it; exit status 1 if something is."""
    from flows import doctor

    found = doctor.examine(repo, serving)
    if plain:
        print(doctor.as_json(found))
    else:
        console.print(doctor.table(found))
    raise typer.Exit(int(any(each.verdict == "wrong" for each in found)))
