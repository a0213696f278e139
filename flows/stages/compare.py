"""The gate's evidence: the served champion against a challenger, on old and on new test records. reports/compare/KEY.

Both answer the same records, so the gain's interval is a bootstrap of paired differences. On the frozen set (what the
champion was tested on) the gain is backward transfer, negative where something was forgotten (Lopez-Paz & Ranzato 2017,
"Gradient episodic memory", section 2). Latency is taken in turns, record by record. Writes gate.json (passed, reasons,
all figures), figure.png and metrics.json; a refusal is a result and no failure. Times differ from run to run; it runs
alone on its machine. Costs a pass of both models over both test splits.
"""

import json
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Interval as Within

from components.evaluation.gate import Rule
from flows.params import Reference
from flows.stages.runtime import Stage, StageError, model_hash, start, write_atomically
from flows.stages.workloads.kinds import workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from components.evaluation.bootstrap import Interval
    from components.evaluation.gate import Slice
    from components.inference.server.served import Kind

WARM = 3  # requests of each model before one counts
SHOWN = 20  # slices of the picture: those that lose most


@dataclass(frozen=True)
class Params:
    champion: str  # folders of served models, with serve.json
    challenger: str
    frozen: Annotated[str, Reference("sources")]  # whose test split the champion was tested on
    fresh: Annotated[str, Reference("sources")]  # whose test split is of the new data
    slices: list[str] = field(default_factory=lambda: ["label"])  # fields by whose values both sets are cut
    caption: str = "text"  # the field that holds the text: a picture's caption may have another name
    rule: Rule = field(default_factory=Rule)
    samples: Annotated[int, Within(ge=100, le=100_000)] = 2000  # of the bootstrap
    requests: Annotated[int, Within(ge=10)] = 100  # single ones of each model, timed
    seed: Annotated[int, Within(ge=0)] = 0  # of the bootstrap
    threads: Annotated[int, Within(ge=1)] = 1
    device: Literal["cpu", "cuda"] = "cpu"


@dataclass(frozen=True)
class Side:
    """One test split, answered by both."""

    champion: float
    challenger: float
    gain: "Interval"  # turned so that more is better
    slices: Mapping[str, "Slice"]
    count: int


def cost(params: Params) -> str:
    return f"{params.champion} and {params.challenger} answer the test records of {params.frozen} and {params.fresh}"


def run(params: Params, stage: Stage) -> None:
    import torch

    from components.evaluation.gate import refusals
    from flows.stages.judges.models import NEEDS, served
    from flows.stages.judges.units import METRICS

    try:
        folders = [Path(params.champion), Path(params.challenger)]
        (about, champion), (other, challenger) = (served(folder, torch.device(params.device)) for folder in folders)
        if about.kind != other.kind:
            raise ValueError(f"{params.champion} is a {about.kind}, {params.challenger} a {other.kind}")
        models = champion, challenger
        needs = {NEEDS[each.stage] for each in (about, other)}
        tests = {name: _test(params, stage.root, getattr(params, name), needs) for name in ("fresh", "frozen")}
        sides = {name: compare(params, about.kind, models, *test) for name, test in tests.items()}
        seconds = latency(about.kind, models, tests["fresh"][0], params.requests)
    except ValueError as error:
        raise StageError(str(error)) from error
    sizes = [sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for folder in folders]
    slower, larger = seconds[1] / seconds[0], sizes[1] / sizes[0]
    slices = {f"{name} {key}": each for name, side in sides.items() for key, each in side.slices.items()}
    reasons = refusals(params.rule, sides["fresh"].gain, sides["frozen"].gain, slices, slower, larger)
    metric, better = METRICS[about.kind]
    gate = {
        "passed": not reasons,
        "reasons": reasons,
        "metric": metric,
        "better": better,
        "rule": asdict(params.rule),
        "champion": {"folder": params.champion, "weights": model_hash(folders[0]), "variant": about.variant},
        "challenger": {"folder": params.challenger, "weights": model_hash(folders[1]), "variant": other.variant},
        **{name: asdict(side) for name, side in sides.items()},
        "backward_transfer": sides["frozen"].gain.value,
        "latency": {"champion": seconds[0], "challenger": seconds[1], "ratio": slower},
        "size": {"champion": sizes[0], "challenger": sizes[1], "ratio": larger},
    }
    write_atomically(stage.reports / "gate.json", json.dumps(gate, indent=1, ensure_ascii=False) + "\n")
    drawn = figure(sides, params.rule, metric, reasons)
    drawn.savefig(stage.reports / "figure.png", dpi=110, metadata={"Software": None})
    report(stage, gate, sides)


def compare(
    params: Params, kind: "Kind", models: tuple[Any, Any], records: list[dict[str, Any]], classes: list[str]
) -> Side:
    """Both models on a test split. classes: what the numbers of its labels mean."""
    import numpy as np

    from components.evaluation.bootstrap import bootstrap
    from components.evaluation.gate import Slice
    from flows.stages.judges.units import METRICS, units

    before, after = (units(kind, model, records, classes) for model in models)
    sign = 1 if METRICS[kind][1] == "higher" else -1
    gains = sign * (after.numerators - before.numerators)  # a unit has the same denominator for both

    def gain(which: Any) -> "Interval":
        return bootstrap(gains[which], before.denominators[which], params.samples, params.seed)

    cut: dict[str, list[int]] = defaultdict(list)
    for number, record in enumerate(records):
        for each in params.slices:
            if each in record:
                value = classes[record[each]] if each == "label" else record[each]
                cut[f"{each}={value}"].append(number)
    slices = {key: Slice(gain(np.array(which)), len(which)) for key, which in sorted(cut.items()) if len(which) > 1}
    total = before.denominators.sum()
    champion, challenger = (float(each.numerators.sum() / total) for each in (before, after))
    return Side(champion, challenger, gain(slice(None)), slices, len(records))


def _test(
    params: Params, root: Path, source: str, needs: set[tuple[str, ...]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """The test records of a source, their text as `text`, and its classes (none where they have no labels).

    needs: fields that the two models are judged by. ValueError: there is no record, or one lacks such a field.
    """
    from components.data.records import Records

    split = Records(root / "data" / "shards" / source / "test", root / "data" / "index" / source / "test")
    records = list(split)
    if not records:
        raise ValueError(f"source {source} has no test record: hold some out (`held_out: {{test: {{share: 0.2}}}}`)")
    for name in {params.caption if each == "text" else each for some in needs for each in some}:
        if any(name not in record for record in records):
            raise ValueError(f"source {source} has no field {name}, by which these models are judged: name another one")
    if params.caption in records[0]:
        records = [record | {"text": record[params.caption]} for record in records]
    return records, split.classes if split.labels.min() >= 0 else []


def latency(kind: "Kind", models: tuple[Any, Any], records: list[dict[str, Any]], count: int) -> tuple[float, float]:
    """Median seconds of a single request to each model, both in turn, so that a slow minute slows both."""
    import numpy as np

    some = [records[number % len(records)] for number in range(count + WARM)]
    taken: list[tuple[float, float]] = []
    for pair in zip(*(workload(kind).requests(model, some, len(some)) for model in models), strict=True):
        ordered = pair if len(taken) % 2 else pair[::-1]  # who goes first finds other caches
        times = tuple(_seconds(request) for request in ordered)
        taken.append(times if len(taken) % 2 else times[::-1])  # type: ignore[arg-type]  # two of them
    champion, challenger = np.median(taken[WARM:], axis=0).tolist()
    return champion, challenger


def _seconds(call: Any) -> float:
    import torch

    started = time.perf_counter()
    call()
    if torch.cuda.is_initialized():  # vectors may still be computed there
        torch.cuda.synchronize()
    return time.perf_counter() - started


def figure(sides: Mapping[str, Side], rule: Rule, metric: str, reasons: list[str]) -> "Figure":
    """A panel for new and one for old records: the gain with its interval, of all and of each slice."""
    from components.evaluation.plots import factors

    titles = {"fresh": "new data", "frozen": "old data: what was forgotten"}
    panels = {
        titles[name]: {f"all ({side.count})": side.gain}
        | {f"{key} ({each.count})": each.gain for key, each in sorted(side.slices.items(), key=_gained)[:SHOWN]}
        for name, side in sides.items()
    }
    drawn = factors(panels, f"gain in {metric.replace('_', ' ')} over the champion (right is better)", even=0.0)
    for axes, bound in zip(drawn.axes, (rule.gain, -rule.forget), strict=True):
        axes.axvline(bound, color="#b3382c", linestyle=":", linewidth=1)
    said = "The challenger passes" if not reasons else "Refused: " + reasons[0].partition(":")[0]
    drawn.suptitle(said, weight="bold", color="#2a7d4f" if not reasons else "#b3382c")
    return drawn


def _gained(each: tuple[str, "Slice"]) -> float:
    return each[1].gain.value


def report(stage: Stage, gate: dict[str, Any], sides: Mapping[str, Side]) -> None:
    metrics: dict[str, float] = {"passed": int(gate["passed"])}
    for name, side in sides.items():
        metrics |= {f"{name}_champion": side.champion, f"{name}_challenger": side.challenger}
        metrics |= {
            f"{name}_gain": side.gain.value,
            f"{name}_gain_low": side.gain.low,
            f"{name}_gain_high": side.gain.high,
        }
        print(
            f"{stage}: {name:6} {gate['metric']} {side.champion:.4f} -> {side.challenger:.4f}, "
            f"gain {side.gain.value:+.4f} [{side.gain.low:+.4f}, {side.gain.high:+.4f}], {side.count} records"
        )
    metrics |= {"latency_ratio": gate["latency"]["ratio"], "size_ratio": gate["size"]["ratio"]}
    stage.write_metrics(metrics)
    print(f"{stage}: " + ("passed" if gate["passed"] else "refused: " + "; ".join(gate["reasons"])))


if __name__ == "__main__":
    start(__file__, Params, cost, run)
