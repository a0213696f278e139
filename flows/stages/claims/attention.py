"""What is claimed of attention's cost by length, width and heads, and of the kinds that make it cheaper."""

from collections.abc import Iterator
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from components.evaluation.plots import factors
from components.evaluation.verdicts import Finding, judge, mean, slope
from flows.stages.claims.distance import exponents
from flows.stages.claims.rows import Rows, Table, by, percent, table

STAGE = "measure_attention"
LINEAR = ("linformer", "performer")
SPARSE = {"local": "Local attention cuts work", "block_sparse": "Sparse attention cuts work"}


def findings(rows: Rows) -> Iterator[Finding]:
    measured = rows.of(STAGE)
    if not measured:
        return
    lengths = by((row for row in measured if row["table"] == "length"), "attention")
    kinds = {kind: each for (kind,), each in lengths.items()}
    yield from _growth(kinds, [row for row in measured if row["table"] == "width"])
    yield _heads([row for row in measured if row["table"] == "heads"])
    for kind in LINEAR:
        if kind in kinds:
            yield _exponent(kinds[kind], f"{kind.capitalize()} makes cost linear", 0.8, 1.2)
    if "explicit" in kinds:
        yield from _flash(kinds)
    for kind, claim in SPARSE.items():
        if kind in kinds:
            yield _speed(kinds, kind, claim)


def _exponent(rows: list[dict[str, Any]], claim: str, low: float, high: float) -> Finding:
    longest = sorted({row["length"] for row in rows})[-3:]  # where what does not grow with length is small
    found = mean(exponents(rows, longest[0]))
    figure = f"exponent of time in length, {longest[0]:,} to {longest[-1]:,} tokens, by round"
    return Finding(claim, figure, f"{low:g} to {high:g}", found, judge(found, low, high), STAGE)


def _growth(kinds: dict[str, list[dict[str, Any]]], widths: list[dict[str, Any]]) -> Iterator[Finding]:
    yield _exponent(kinds["softmax"], "The cost of attention grows as n²", 1.75, 2.25)
    found = mean([slope(*_points(each, "width")) for each in by(widths, "round").values()])
    figure = "exponent of time in the width, by heads of one size, by round"
    yield Finding("... and as d", figure, "0.75 to 1.25", found, judge(found, 0.75, 1.25), STAGE)


def _points(rows: list[dict[str, Any]], along: str) -> tuple[list[float], list[float]]:
    return [row[along] for row in rows], [row["seconds"] for row in rows]


def _heads(rows: list[dict[str, Any]]) -> Finding:
    most = max(row["heads"] for row in rows)
    times = {(row["heads"], row["round"]): row["seconds"] for row in rows}
    found = mean([times[most, r] / times[1, r] for heads, r in times if heads == 1], ratio=True)
    return Finding(
        "Heads of d_model/h cost the same as one",
        f"time of {most} heads over that of one at equal width, projections and all, by round",
        "0.8 to 1.25 times",
        found,
        judge(found, 0.8, 1.25),
        STAGE,
        "times",
    )


def _flash(kinds: dict[str, list[dict[str, Any]]]) -> Iterator[Finding]:
    length = max(row["length"] for row in kinds["explicit"])
    found = mean(_ratios(kinds, "explicit", "softmax", length), ratio=True)
    peaks = [median(r["peak_bytes"] for r in kinds[kind] if r["length"] == length) for kind in ("explicit", "softmax")]
    figure = (
        f"time with the whole matrix of weights over that of the flash kernel at {length:,} tokens, by round; it holds "
        f"{peaks[0] / max(peaks[1], 1):.0f} times the memory"
    )
    verdict = judge(found, low=1)
    yield Finding("Flash attention saves time and memory", figure, "above 1 times", found, verdict, STAGE, "times")
    figure = "bytes moved between memory and processor: no counter here"
    yield Finding("Flash attention saves memory traffic", figure, "fewer", None, "needs a GPU", STAGE)


def _speed(kinds: dict[str, list[dict[str, Any]]], kind: str, claim: str) -> Finding:
    length = max(row["length"] for row in kinds[kind])
    found = mean(_ratios(kinds, "softmax", kind, length), ratio=True)
    figure = f"time of full attention over that of {kind.replace('_', '-')} at {length:,} tokens, by round"
    return Finding(claim, figure, "above 1 times", found, judge(found, low=1), STAGE, "times")


def _ratios(kinds: dict[str, list[dict[str, Any]]], above: str, below: str, length: int) -> list[float]:
    sides = [
        {row["round"]: row["seconds"] for row in kinds[kind] if row["length"] == length} for kind in (above, below)
    ]
    return [sides[0][number] / sides[1][number] for number in sides[0]]


def tables(rows: Rows) -> Iterator[Table]:
    measured = [row for row in rows.of(STAGE) if row["table"] == "length"]
    for title, name, unit, scale in (
        ("Forward and backward pass, by length", "seconds", "ms", 1e3),
        ("Peak memory above the inputs, by length", "peak_bytes", "MiB", 2**-20),
    ):

        def value(each: list[dict[str, Any]], name: str = name, unit: str = unit, scale: float = scale) -> str:
            return f"{scale * median(row[name] for row in each):,.1f} {unit}"

        yield table(STAGE, title, measured, down="attention", across="length", value=value)
    yield table(
        "train_long",
        "Recall of a token anywhere in the text, by length",
        rows.of("train_long"),
        down="attention",
        across="length",
        value=lambda each: percent(sum(row["accuracy"] for row in each) / len(each)),
    )


def pictures(rows: Rows) -> Iterator[tuple[str, Figure]]:
    measured = rows.of("train_long")
    if measured:
        cells = by(measured, "attention", "length")
        found = {
            f"{kind}, {length:,}": mean([row["accuracy"] for row in each]) for (kind, length), each in cells.items()
        }
        yield "train_long", factors({"share of tokens recalled": found}, "dashed: chance", measured[0]["chance"])
