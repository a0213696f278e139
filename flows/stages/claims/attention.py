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
SQUARE, WIDTH = "The cost of attention grows as n²", "... and as d"
HEADS = "Heads of d_model/h cost the same as one"
LINEAR = {"linformer": "Linformer makes cost linear", "performer": "Performer makes cost linear"}
FLASH, TRAFFIC = "Flash attention saves time and memory", "Flash attention saves memory traffic"
SPARSE = {"local": "Local attention cuts work", "block_sparse": "Sparse attention cuts work"}
CLAIMS = dict.fromkeys((SQUARE, WIDTH, HEADS, *LINEAR.values(), FLASH, TRAFFIC, *SPARSE.values()), STAGE)


def findings(rows: Rows) -> Iterator[Finding]:
    measured = rows.of(STAGE)
    if not measured:
        return
    lengths = by((row for row in measured if row["table"] == "length"), "attention")
    kinds = {kind: each for (kind,), each in lengths.items()}
    yield from _growth(kinds, [row for row in measured if row["table"] == "width"])
    yield _heads([row for row in measured if row["table"] == "heads"])
    for kind, claim in LINEAR.items():
        if kind in kinds:
            yield _exponent(kinds[kind], claim, 0.8, 1.2)
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
    yield _exponent(kinds["softmax"], SQUARE, 1.75, 2.25)
    found = mean([slope(*_points(each, "width")) for each in by(widths, "round").values()])
    figure = "exponent of time in the width, by heads of one size, by round"
    yield Finding(WIDTH, figure, "0.75 to 1.25", found, judge(found, 0.75, 1.25), STAGE)


def _points(rows: list[dict[str, Any]], along: str) -> tuple[list[float], list[float]]:
    return [row[along] for row in rows], [row["seconds"] for row in rows]


def _heads(rows: list[dict[str, Any]]) -> Finding:
    most = max(row["heads"] for row in rows)
    times = {(row["heads"], row["round"]): row["seconds"] for row in rows}
    found = mean([times[most, r] / times[1, r] for heads, r in times if heads == 1], ratio=True)
    return Finding(
        HEADS,
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
    more = peaks[0] / max(peaks[1], 1)
    figure = f"time with the whole matrix of weights over that of the flash kernel at {length:,} tokens, by round"
    verdict = judge(found, low=1) if more > 1 else "does not hold here"
    both = f"{figure}; the peak of memory is {more:.1f} times as high"
    yield Finding(FLASH, both, "above 1 times, and memory too", found, verdict, STAGE, "times")
    if kinds["explicit"][0]["device"] == "cuda":
        # 2 products forward and 4 backward against 2 and 5: scores are computed again (Dao et al. 2022, section 3.1)
        figure += "; no counter of bytes, but the kernel computes a sixth more, so time that it saves is traffic's"
        yield Finding(TRAFFIC, figure, "above 1 times", found, judge(found, low=1), STAGE, "times")
    else:
        figure = "bytes moved between memory and processor: no counter here, and a CPU's caches hide them in the time"
        yield Finding(TRAFFIC, figure, "fewer", None, "needs a GPU", STAGE)


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
    measured = by(rows.of(STAGE), "table")
    for title, along, name, unit, scale in (
        ("Forward and backward pass, by length", "length", "seconds", "ms", 1e3),
        ("Peak memory above the inputs, by length", "length", "peak_bytes", "MiB", 2**-20),
        ("Forward and backward pass, by width in heads of one size", "width", "seconds", "ms", 1e3),
        ("Forward and backward pass with projections, by heads of one width", "heads", "seconds", "ms", 1e3),
    ):

        def value(each: list[dict[str, Any]], name: str = name, unit: str = unit, scale: float = scale) -> str:
            return f"{scale * median(row[name] for row in each):,.1f} {unit}"

        yield table(STAGE, title, measured.get((along,), []), down="attention", across=along, value=value)
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
