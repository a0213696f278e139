"""What is claimed of far information: Transformer against recurrent nets, residual path and norms."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from matplotlib.figure import Figure

from components.evaluation.plots import curves
from components.evaluation.verdicts import Finding, judge, mean, slope
from flows.stages.claims.rows import Rows, Table, by, percent, shares, table

RECURRENT = ("lstm", "gru")
REACHES = "Self-attention reaches any distance in one step"
LOSES = "Recurrent nets lose far information, Transformers do not"
PROPORTIONAL = {kind: f"Recurrent nets train in time proportional to length ({kind.upper()})" for kind in RECURRENT}
STABLE = {
    variant: f"Residuals and LayerNorm keep gradients stable (against {without})"
    for variant, without in (("neither", "neither"), ("norm", "no residual path"), ("residual", "no LayerNorm"))
}
CLAIMS = {  # and the stage that shows each
    **dict.fromkeys((REACHES, LOSES), "train_recall"),
    **dict.fromkeys(PROPORTIONAL.values(), "measure_recurrence"),
    **dict.fromkeys(STABLE.values(), "measure_gradients"),
}


def findings(rows: Rows) -> Iterator[Finding]:
    yield from _recall(rows.of("train_recall"))
    yield from _time(rows.of("measure_recurrence"))
    yield from _gradients(rows.of("measure_gradients"))


def _recall(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    farthest = max((row["distance"] for row in rows), default=0)
    own: dict[int, float] = {}  # by seed
    rivals: dict[int, float] = {}  # the better one's
    for row in (row for row in rows if row["distance"] == farthest):
        side = rivals if row["model"] in RECURRENT else own
        side[row["seed"]] = max(row["accuracy"], side.get(row["seed"], 0.0))
    if not own:
        return
    low = (1 + rows[0]["chance"]) / 2
    reached = mean([*own.values()])
    reached = replace(reached, low=max(reached.low, 0.0), high=min(reached.high, 1.0))  # it is a share
    yield Finding(
        REACHES,
        f"recall of a token {farthest} steps back, over {len(own)} seeds",
        f"above {percent(low)}, halfway from chance to all",
        reached,
        judge(reached, low=low),
        "train_recall",
        "share",
    )
    margins = [accuracy - rivals[seed] for seed, accuracy in own.items() if seed in rivals]
    if not margins:
        return
    lead = mean(margins)
    yield Finding(
        LOSES,
        f"recall at {farthest} steps, Transformer less the better recurrent net of equal parameters, by seed",
        "above 0",
        lead,
        judge(lead, low=0),
        "train_recall",
        "share",
    )


def _time(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    for model in dict.fromkeys(row["model"] for row in rows if row["model"] in RECURRENT):
        exponent = mean(exponents([row for row in rows if row["model"] == model]))
        yield Finding(
            PROPORTIONAL[model],
            "exponent of the time of a training pass in its length, by round",
            "0.8 to 1.2",
            exponent,
            judge(exponent, low=0.8, high=1.2),
            "measure_recurrence",
        )


def exponents(rows: list[dict[str, Any]], shortest: int = 0) -> list[float]:
    """Of seconds in length, one a round, over lengths from `shortest` on."""
    rounds: dict[int, list[tuple[int, float]]] = {}
    for row in rows:
        if row["length"] >= shortest:
            rounds.setdefault(row["round"], []).append((row["length"], row["seconds"]))
    return [slope(*zip(*points, strict=True)) for points in rounds.values()]


def _gradients(rows: list[dict[str, Any]]) -> Iterator[Finding]:
    from math import log10

    norms = {(row["variant"], row["block"], row["seed"]): row["norm"] for row in rows if row["table"] == "depth"}
    seeds = sorted({seed for _, _, seed in norms})
    if not seeds:
        return
    last = max(block for _, block, _ in norms)

    def drift(variant: str, seed: int) -> float:
        """Powers of ten between the gradients at the first and the last block, either way."""
        first, end = (max(norms[variant, block, seed], 1e-45) for block in (0, last))
        return abs(log10(first / end))

    for without, claim in STABLE.items():
        saved = mean([drift(without, seed) - drift("both", seed) for seed in seeds])
        yield Finding(
            claim,
            f"powers of ten by which the gradient drifts over {last + 1} blocks, less that with both, by seed",
            "above 0",
            saved,
            judge(saved, low=0),
            "measure_gradients",
        )


def tables(rows: Rows) -> Iterator[Table]:
    yield table(
        "train_recall",
        "Recall of a token, by its distance",
        rows.of("train_recall"),
        down="model",
        across="distance",
        value=lambda each: percent(sum(row["accuracy"] for row in each) / len(each)),
    )
    yield table(
        "measure_recurrence",
        "A training pass, by length",
        rows.of("measure_recurrence"),
        down="model",
        across="length",
        value=_milliseconds,
    )
    gradients = by(rows.of("measure_gradients"), "table")
    yield table(
        "measure_gradients",
        "Gradient at a token, by its distance",
        gradients.get(("distance",), []),
        down="model",
        across="distance",
        value=_norm,
    )
    deep = [row | {"block": row["block"] + 1} for row in gradients.get(("depth",), [])]
    last = max((row["block"] for row in deep), default=0)
    yield table(
        "measure_gradients",
        "Gradient at a block's input, by its number: with both, with the residual path or the norm alone, with neither",
        [row for row in deep if row["block"] in (1 << power for power in range(9)) or row["block"] == last],
        down="variant",
        across="block",
        value=_norm,
    )


def _norm(each: list[dict[str, Any]]) -> str:
    return f"{sum(row['norm'] for row in each) / len(each):.1e}"


def _milliseconds(each: list[dict[str, Any]]) -> str:
    from statistics import median

    return f"{1000 * median(row['seconds'] for row in each):,.1f} ms"


def pictures(rows: Rows) -> Iterator[tuple[str, Figure]]:
    measured = rows.of("train_recall")
    if measured:
        series = shares(measured, "model", "distance")
        yield "train_recall", curves({"share of tokens recalled": series}, "tokens in between", up="linear")
