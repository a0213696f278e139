"""Makes a trained model fast, measures every way to do so, and writes the one to be served: models/optimise/KEY.

Of each variant (components/inference/variants.py) it measures seconds of a request (p50, p99), items a second in
batches, peak memory, size and quality, on the validation split: choosing on the test split would flatter. Served is the
fastest at p50 that keeps quality within `tolerance` of the plain model's. What the machine lacks is left out, and said.
Measured times differ from run to run: so do reports/optimise/KEY (metrics.json, variants.json, figure.png) and, where
two variants are close, the choice. Runs alone on its machine.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval

from flows.params import Reference
from flows.stages.loaders import STAGES
from flows.stages.runtime import WEIGHTS, Stage, StageError, start, write_atomically
from flows.stages.workloads.kinds import workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from components.inference.latency import Work

Variant = Literal["int8_weights", "int8_dynamic", "bf16", "compiled", "onnx"]
FILES = (WEIGHTS, "config.json", "tokenizer.json")  # what a trained model's folder may hold
SERVE = "serve.json"


@dataclass(frozen=True)
class Params:
    stage: Literal["finetune_text", "train_image", "train_clip", "train_speech", "train_decoder"]  # made the model
    run: Annotated[str, Reference("{stage}")]  # key of that stage
    source: Annotated[str, Reference("sources")]  # whose validation split is read
    variants: list[Variant] = field(default_factory=list)  # beside plain
    caption: str = "text"  # train_clip: the field with the caption
    tolerance: Annotated[float, Interval(ge=0.0, lt=1.0)] = 0.01  # of quality, relative to plain's
    requests: Annotated[int, Interval(ge=2)] = 40  # single ones, a round
    batch: Annotated[int, Interval(ge=1)] = 16  # requests at once, where throughput is measured
    rounds: Annotated[int, Interval(ge=1)] = 4
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu"] = "cpu"

    def __post_init__(self) -> None:
        if self.stage == "train_decoder" and "onnx" in self.variants:
            raise ValueError("variants hold onnx, and a decoder's graph has no cache to decode with: take it out")


def cost(params: Params) -> str:
    return (
        f"{params.rounds} rounds of {params.requests} requests by {1 + len(params.variants)} variants of "
        f"{params.stage}@{params.run}; about 1 GiB each; the machine to itself"
    )


def run(params: Params, stage: Stage) -> None:
    from components.inference import export, latency, variants
    from components.inference.variants import choose

    folder = stage.root / "models" / params.stage / params.run
    partial = stage.model.with_name(f".{stage.model.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name in FILES:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, partial / name)
        names = usable(params, variants.lacks, stage)
        if "onnx" in names:
            apart(lambda: export.export(served(params, partial, "plain")[1], partial))
        makes = {name: maker(params, stage, partial, name) for name in names}
        figures = latency.measure(makes, params.rounds)
        kind = workload(STAGES[params.stage])
        rows = [{"variant": name, **figures[name]} for name in names]
        chosen = choose(rows, kind.BETTER, params.tolerance)
        write(params, partial, chosen)
        shutil.rmtree(stage.model, ignore_errors=True)
        partial.rename(stage.model)
    except (ValueError, RuntimeError) as error:
        raise StageError(f"{params.stage} {params.run}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    report(stage, kind, rows, chosen)


def usable(params: Params, lacks: Callable[[str], str], stage: Stage) -> list[str]:
    """plain, and each variant that this machine runs; what it lacks for the others is printed."""
    names = ["plain"]
    for name in params.variants:
        if reason := lacks(name):
            print(f"{stage}: left out: {reason}")
        else:
            names.append(name)
    return names


def apart(work: Callable[[], Any]) -> None:
    """Run it in a process of its own: this one must not compute before it forks those that are measured."""
    from components.evaluation.apart import Apart

    def once() -> None:
        work()

    with Apart(lambda: once) as there:
        there()


def served(params: Params, folder: Path, variant: str) -> tuple[Any, Any]:
    """What the stage's `load` gives of a folder, with the variant in it, and that variant."""
    import torch

    from components.inference.variants import apply

    if params.stage == "finetune_text":
        from flows.stages.finetune_text import load
    elif params.stage == "train_image":
        from flows.stages.train_image import load
    elif params.stage == "train_clip":
        from flows.stages.train_clip import load
    elif params.stage == "train_speech":
        from flows.stages.train_speech import load
    else:
        from flows.stages.train_decoder import load
    whole: Any = load(folder, torch.device(params.device))
    part = workload(STAGES[params.stage]).PART
    model = apply(getattr(whole, part), variant, folder)
    setattr(whole, part, model)
    return whole, model


def maker(params: Params, stage: Stage, folder: Path, variant: str) -> "Callable[[], Work]":
    def make() -> "Work":
        from components.data.records import Records
        from components.inference.latency import Work
        from components.training.weights import weights

        kind = workload(STAGES[params.stage])
        whole, model = served(params, folder, variant)
        shards, index = (stage.root / "data" / name / params.source / "valid" for name in ("shards", "index"))
        records = list(Records(shards, index))
        if params.stage == "train_clip":
            records = [record | {"text": record[params.caption]} for record in records]
        batch, items = kind.batch(whole, records, params.batch)
        if variant == "onnx":
            size = sum(path.stat().st_size for path in folder.glob("*.onnx"))
        else:
            size = sum(tensor.nbytes for tensor in weights(model).values())
        requests = kind.requests(whole, records, params.requests)
        return Work(requests, batch, items, lambda: kind.quality(whole, records), size)

    return make


def write(params: Params, folder: Path, chosen: str) -> None:
    """What tells a server how to load the folder; graphs stay only where they are what is served."""
    about = {"stage": params.stage, "kind": STAGES[params.stage], "variant": chosen}
    write_atomically(folder / SERVE, json.dumps(about, indent=1) + "\n")
    if chosen != "onnx":
        for path in folder.glob("*.onnx"):
            path.unlink()


def report(stage: Stage, kind: Any, rows: list[dict[str, Any]], chosen: str) -> None:
    for row in rows:
        print(
            f"{stage}: {row['variant']:13} p50 {1e3 * row['p50']:8.2f} ms  p99 {1e3 * row['p99']:8.2f} ms  "
            f"{row['throughput']:10,.0f} {kind.ITEMS}/s  memory {row['memory'] / 2**20:7.1f} MiB  "
            f"size {row['size'] / 2**20:6.2f} MiB  {kind.METRIC} {row['quality']:.4f}"
            f"{'  <- served' if row['variant'] == chosen else ''}"
        )
    about = {"metric": kind.METRIC, "better": kind.BETTER, "items": kind.ITEMS, "chosen": chosen, "rows": rows}
    write_atomically(stage.reports / "variants.json", json.dumps(about, indent=1) + "\n")
    figure(rows, chosen, kind).savefig(stage.reports / "figure.png", dpi=110, metadata={"Software": None})
    plain, best = (next(row for row in rows if row["variant"] == name) for name in ("plain", chosen))
    stage.write_metrics(
        {
            kind.METRIC: best["quality"],
            f"{kind.METRIC}_plain": plain["quality"],
            "p50_ms": 1e3 * best["p50"],
            "p99_ms": 1e3 * best["p99"],
            "times_faster": plain["p50"] / best["p50"],
            f"{kind.ITEMS}_per_second": best["throughput"],
            "memory_mib": best["memory"] / 2**20,
            "size_mib": best["size"] / 2**20,
        }
    )


def figure(rows: Sequence[dict[str, Any]], chosen: str, kind: Any) -> "Figure":
    """A panel a figure, a bar a variant, the served one darker; a line from p50 to p99."""
    from matplotlib.figure import Figure

    panels = {
        "milliseconds a request, p50 to p99": ("p50", 1e3),
        f"{kind.ITEMS} a second, in batches": ("throughput", 1.0),
        "peak memory, MiB": ("memory", 2**-20),
        kind.METRIC.replace("_", " "): ("quality", 1.0),
    }
    names = [row["variant"].replace("_", " ") for row in rows]
    colours = ["#1f4e82" if row["variant"] == chosen else "#a9c1dc" for row in rows]
    drawn = Figure(figsize=(3.4 * len(panels), 0.9 + 0.32 * len(rows)), layout="constrained")
    for axes, (title, (name, scale)) in zip(drawn.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        axes.barh(names, [scale * row[name] for row in rows], color=colours, height=0.7)
        if name == "p50":
            for place, row in enumerate(rows):
                axes.plot([1e3 * row["p50"], 1e3 * row["p99"]], [place, place], color="#444444", linewidth=1)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    drawn.axes[0].invert_yaxis()
    return drawn


if __name__ == "__main__":
    start(__file__, Params, cost, run)
