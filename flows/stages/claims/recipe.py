"""What is claimed of recipes: schedule, optimiser, rates by layer, regularisers. Paired with a base run by seed."""

from collections.abc import Iterator
from typing import Any

from matplotlib.figure import Figure

from components.evaluation.plots import factors
from components.evaluation.verdicts import Finding, judge, mean
from flows.stages.claims.rows import Rows, Table, by

STAGE = "train_factor"
FACTORS = (  # that the roadmap claims; their names as params.yaml has them
    "Warm-up with cosine decay",
    "AdamW's weight decay",
    "Dropout",
    "Label smoothing (decoder)",
    "Label smoothing (classifier)",
    "DropPath",
    "Layer-wise learning rates",
)
CLAIMS = {f"Helps: {factor}": STAGE for factor in FACTORS}


def findings(rows: Rows) -> Iterator[Finding]:
    for row, gains in _gains(rows.of(STAGE)):
        if not row["claimed"]:
            continue
        found = mean(gains)
        figure = f"validation loss without it less that with it, after {row['steps']} equal steps, by seed"
        yield Finding(f"Helps: {row['factor']}", figure, "above 0", found, judge(found, low=0), STAGE, "nats")


def _gains(rows: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], list[float]]]:
    """For each factor a row of its variant, and by seed how much lower the loss is on the side that is said to help."""
    losses = {(row["variant"], row["seed"]): row["loss"] for row in rows}
    for (variant,), each in by((row for row in rows if row["variant"] != row["base"]), "variant").items():
        sign = 1 if each[0]["helps"] == "variant" else -1
        yield each[0], [sign * (losses[row["base"], row["seed"]] - losses[variant, row["seed"]]) for row in each]


def tables(rows: Rows) -> Iterator[Table]:
    measured = rows.of(STAGE)
    gains = {row["variant"]: mean(each) for row, each in _gains(measured)}
    lines = []
    for (variant,), each in by(measured, "variant").items():
        loss = sum(row["loss"] for row in each) / len(each)
        gain = gains.get(variant)
        span = f"{gain.value:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})" if gain else ""
        lines.append([variant, each[0]["base"], f"{loss:.4f}", span, str(len(each))])
    head = ["recipe", "base", "validation loss, nats", "what the factor gains", "seeds"]
    yield Table(STAGE, "Recipes at equal steps", head, lines)


def pictures(rows: Rows) -> Iterator[tuple[str, Figure]]:
    gains = {row["factor"]: mean(each) for row, each in _gains(rows.of(STAGE))}
    if gains:
        yield STAGE, factors({"what each factor gains": gains}, "nats of validation loss", even=0)
