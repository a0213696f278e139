"""What is claimed of the training engine's options: precision, accumulation, activations computed again."""

from collections.abc import Iterator
from statistics import median
from typing import Any

from components.evaluation.bootstrap import Interval
from components.evaluation.verdicts import Finding, judge, mean
from flows.stages.claims.rows import Rows, Table

STAGE = "measure_engine"
SAME = 0.02  # nats: losses this near are the same for whoever trains
FASTER = "Mixed precision doubles speed"
UNCHANGED = {
    "bf16": "Mixed precision keeps stability (bf16)",
    "fp16": "Mixed precision keeps stability (fp16 with loss scaling)",
    "accumulation": "Accumulation reproduces large batches",
}
TRADES = {
    "recompute": "Checkpointing trades time for memory",
    "selective": "Selective checkpointing trades time for memory",
}
CLAIMS = dict.fromkeys((FASTER, *UNCHANGED.values(), *TRADES.values()), STAGE)


def findings(rows: Rows) -> Iterator[Finding]:
    measured = rows.of(STAGE)
    if (speed := ratio(measured, "none", "bf16", "seconds")) is not None:
        figure = "time of a step in fp32 over that in bf16, by round"
        yield Finding(FASTER, figure, "above 2 times", speed, judge(speed, 2), STAGE, "times")
    for option, claim in UNCHANGED.items():
        if differences := _differences(measured, option):
            found = mean(differences)
            figure = f"validation loss after equal steps, less that without, by seed (over {len(differences)})"
            yield Finding(claim, figure, f"within {SAME:g} nats", found, judge(found, -SAME, SAME), STAGE, "nats")
    for option, claim in TRADES.items():
        memory, time = (ratio(measured, option, "none", name) for name in ("peak_bytes", "seconds"))
        if memory is None or time is None:
            continue
        longer = f"{time.value:.2f} times as long ({time.low:.2f} to {time.high:.2f})"
        figure = f"peak memory over that without, by round; a step takes {longer}"
        saved, paid = judge(memory, high=1), judge(time, low=1)
        verdict = paid if saved == "holds" else saved
        yield Finding(claim, figure, "below 1 times, and time above", memory, verdict, STAGE, "times")


def ratio(rows: list[dict[str, Any]], above: str, below: str, name: str) -> Interval | None:
    """Of one option to another, paired by round; None where either was not measured."""
    sides = [
        {row["round"]: row[name] for row in rows if row["table"] == "speed" and row["option"] == option}
        for option in (above, below)
    ]
    return mean([sides[0][r] / sides[1][r] for r in sides[0]], ratio=True) if all(sides) else None


def _differences(rows: list[dict[str, Any]], option: str) -> list[float]:
    losses = {(row["option"], row["seed"]): row["loss"] for row in rows if row["table"] == "loss"}
    return [loss - losses["none", seed] for (each, seed), loss in losses.items() if each == option]


def tables(rows: Rows) -> Iterator[Table]:
    """The ablation: each option by itself, as ratios to none."""
    measured = rows.of(STAGE)
    lines = []
    for option in dict.fromkeys(row["option"] for row in measured):
        cells = [option]
        for name, scale, unit in (("seconds", 1e3, "ms"), ("peak_bytes", 2**-20, "MiB")):
            values = [scale * row[name] for row in measured if row["option"] == option and row["table"] == "speed"]
            found = ratio(measured, option, "none", name)
            cells += [f"{median(values):,.1f} {unit}", f"{found.value:.2f}"] if found else ["", ""]
        losses = [row["loss"] for row in measured if row["option"] == option and row["table"] == "loss"]
        lines.append([*cells, f"{mean(losses).value:.4f} nats" if losses else ""])
    head = ["option", "a step", "times none", "peak memory", "times none", "validation loss"]
    yield Table(STAGE, "One option at a time", head, lines)
