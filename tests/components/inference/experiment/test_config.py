import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest

from components.inference.experiment.config import Design, Metric, design

RATE = Metric("thumbs_up", "rate", "higher", 0.02, baseline=0.4)
LATENCY = Metric("latency", "mean", "lower", 0.1, deviation=0.5, unit="s")
DESIGN = Design("ranking-3", (RATE,), 20_000, (LATENCY,), share=0.1, most_seconds=86400.0)


def test_a_design_comes_back_from_json() -> None:
    assert design(json.loads(json.dumps(asdict(DESIGN)))) == DESIGN


def test_spread() -> None:
    assert RATE.spread == pytest.approx(math.sqrt(0.4 * 0.6))
    assert LATENCY.spread == 0.5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"primary": ()}, "no primary metric"),
        ({"guardrails": (RATE,)}, "each name may stand once"),
        ({"share": 0.0}, r"share 0 must be in \(0, 1\)"),
        ({"share": math.nan}, "share nan"),
        ({"alpha": 1.0}, "alpha 1"),
        ({"most_users": 150}, "both arms within most_users 150"),
        ({"least_users": -1}, "least_users -1"),
        ({"least_seconds": 1e9}, "below most_seconds"),
    ],
)
def test_designs_that_cannot_be_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replace(DESIGN, **change)


@pytest.mark.parametrize(
    ("metric", "change", "reason"),
    [
        (RATE, {"effect": 0.0}, "effect 0 must be above 0, below 1"),
        (RATE, {"baseline": 1.2}, "baseline between 0 and 1"),
        (RATE, {"baseline": None}, "needs a baseline"),
        (LATENCY, {"deviation": None}, "needs a deviation"),
        (LATENCY, {"effect": math.nan}, "effect nan"),
    ],
)
def test_metrics_that_cannot_be_are_refused(metric: Metric, change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"metric {metric.name}: .*{reason}"):
        replace(metric, **change)


def test_unknown_and_missing_keys_are_named() -> None:
    with pytest.raises(ValueError, match="Design: unknown shares: known are experiment"):
        design({**asdict(DESIGN), "shares": 0.1})
    with pytest.raises(ValueError, match="most_users"):
        design({"experiment": "a", "primary": [asdict(RATE)]})
    with pytest.raises(ValueError, match="kind"):
        design({"experiment": "a", "primary": [{**asdict(RATE), "kind": "share"}], "most_users": 1000})
