import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from components.evaluation.charts import lines, ticks, track
from components.evaluation.pictures import bars, by_context, confusion, retrieval_grid


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.31, 0.94), (1.2e-5, 3.4e-5), (-3, 812), (2.0, 2.0), (0, 0), (0, 4.9)]
)
def test_ticks_are_few_and_hold_all(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 7
    assert marks[0] <= low
    assert marks[-1] >= high
    assert np.allclose(np.diff(marks), marks[1] - marks[0])


def test_track_places_figures_in_their_order() -> None:
    drawn = ElementTree.fromstring(track(0.8, 0.75, 0.85, 0.6, 0.1, whole=True))
    x = {part.get("class"): float(part.get("x1") or part.get("cx") or "nan") for part in drawn}
    assert x["chance"] < x["floor"] < x["interval"] < x["value"]


def test_track_leaves_a_distant_chance_out() -> None:
    assert 'class="chance"' not in track(1.72, 1.70, 1.74, 1.86, 8.0, whole=False)


def test_lines_are_drawn_upwards_and_to_the_right() -> None:
    drawn = lines({"training": [(10, 2.0), (20, 1.0), (30, float("nan"))], "validation": [(20, 1.5)]})
    [points] = re.findall(r'class="line training" points="([^"]*)"', drawn)
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points.split())
    assert x0 < x1
    assert y0 < y1  # SVG counts downwards: the lower figure stands lower
    ElementTree.fromstring(drawn)


def pictures() -> list[Figure]:
    labels = np.arange(100) % 77
    picture = np.zeros((8, 8, 3), np.uint8)
    return [
        confusion(labels, labels, [f"class {number}" for number in range(77)]),
        confusion(labels % 5, labels % 3, list("abcde")),
        bars({"a": 0.1, "b": 0.3}, 0.2, "errors"),
        by_context(np.linspace(3, 1, 64), 2.0),
        retrieval_grid([(picture, "own", ["own", "other"])] * 2, [("own", picture, [picture, picture.copy()])] * 2),
    ]


def test_same_figures_same_bytes() -> None:
    def drawn(figure: Figure) -> bytes:
        figure.savefig(file := io.BytesIO())
        return file.getvalue()

    for first, second in zip(pictures(), pictures(), strict=True):
        assert drawn(first) == drawn(second)
