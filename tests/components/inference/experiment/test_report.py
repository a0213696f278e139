import base64
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from components.inference.experiment.config import Design, Metric, design
from components.inference.experiment.report import page, timeline, write

DESIGN = Design(
    "ranking <3>",
    (Metric("thumbs_up", "rate", "higher", 0.05, baseline=0.4),),
    8000,
    (Metric("latency", "mean", "lower", 0.1, deviation=0.5, unit="s"),),
)


@dataclass
class Logged:
    users: np.ndarray
    values: np.ndarray
    times: np.ndarray


def logs(thumbs: float, count: int = 3000) -> tuple[dict[str, Logged], dict[str, dict[str, Logged]]]:
    rng = np.random.default_rng(0)
    challenger = rng.random(count) < 0.5
    users, times = np.array([f"user-{number}" for number in range(count)]), np.linspace(0, 86400.0, count)
    ups = (rng.random(count) < np.where(challenger, thumbs, 0.4)).astype(float)

    def arms(values: np.ndarray) -> dict[str, Logged]:
        sides = (("champion", ~challenger), ("challenger", challenger))
        return {arm: Logged(users[which], values[which], times[which]) for arm, which in sides}

    return arms(np.ones(count)), {"thumbs_up": arms(ups), "latency": arms(rng.lognormal(-1, 0.6, count))}


def test_intervals_narrow_and_the_last_verdict_is_that_of_all_users() -> None:
    verdicts = timeline(DESIGN, *logs(0.5), looks=8)
    widths = [each.estimates[0].high - each.estimates[0].low for each in verdicts]
    assert widths == sorted(widths, reverse=True)
    assert verdicts[-1].champion_users + verdicts[-1].challenger_users == 3000
    assert verdicts[-1].decision == "promote"


@pytest.mark.parametrize(("thumbs", "title"), [(0.5, "Promote the challenger"), (0.3, "Stop the experiment")])
def test_the_page_says_the_verdict_first_and_needs_nothing_else(thumbs: float, title: str) -> None:
    html = page(DESIGN, timeline(DESIGN, *logs(thumbs), looks=8))
    text = re.sub(r"<[^>]+>", "\n", re.sub(r"(?s)^.*<body>", "", html)).strip()
    assert text.startswith(title)
    assert "ranking &lt;3&gt;" in html and "<3>" not in html
    assert not re.search(r'(src|href)="(?!data:)', html) and "@import" not in html and "url(" not in html
    picture = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert picture
    assert ElementTree.fromstring(base64.b64decode(picture[1])).tag.endswith("svg")


def test_the_same_figures_give_the_same_bytes() -> None:
    verdicts = timeline(DESIGN, *logs(0.4), looks=4)
    assert page(DESIGN, verdicts) == page(DESIGN, verdicts)


def test_the_record_is_strict_json_and_holds_the_design(tmp_path: Path) -> None:
    verdicts = timeline(DESIGN, *logs(0.5), looks=8)
    write(tmp_path / "reports", DESIGN, verdicts)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    record = json.loads((tmp_path / "reports" / "report.json").read_text(), parse_constant=refuse)
    assert record["verdict"]["decision"] == verdicts[-1].decision
    assert len(record["history"]) == 8
    assert design(record["design"]) == DESIGN
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == ["report.html", "report.json"]


def test_early_looks_with_open_intervals_still_make_a_page() -> None:
    small = replace(DESIGN, most_users=400)
    assert "Go on" in page(small, timeline(small, *logs(0.4, count=30), looks=3))


def test_nothing_logged_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="no request yet"):
        timeline(DESIGN, {}, {})
