"""Small SVG charts for a page: their colours are the page's own (CSS classes), so that light and dark both work.

matplotlib's pictures carry their colours in them; these are for what stands in the text: an interval beside its floor,
and learning curves.
"""

import math
from collections.abc import Mapping, Sequence

Number = int | float
Point = tuple[Number, Number]

TRACK_WIDTH, TRACK_HEIGHT = 260, 30
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 10, 24  # margins of a line chart


def track(value: Number, low: Number, high: Number, floor: Number, chance: Number, whole: bool) -> str:
    """One figure on a line: dot and interval, floor (a bar across), chance (a thin bar).

    whole: the line is 0 to 1; otherwise it holds all but chance, where that would squeeze the rest together."""
    seen = [value, low, high, floor] if not whole else [0.0, 1.0, high]
    start, stop = min(seen), max(seen)
    margin = 0.0 if whole else max(0.15 * (stop - start), 1e-9)
    start, stop = start - margin, stop + margin

    def x(figure: Number) -> float:
        return round(8 + (TRACK_WIDTH - 16) * (figure - start) / (stop - start), 1)

    middle = TRACK_HEIGHT / 2
    parts = [f'<line class="axis" x1="{x(start)}" x2="{x(stop)}" y1="{middle}" y2="{middle}"/>']
    if start <= chance <= stop:
        parts.append(f'<line class="chance" x1="{x(chance)}" x2="{x(chance)}" y1="{middle - 6}" y2="{middle + 6}"/>')
    parts += [
        f'<line class="floor" x1="{x(floor)}" x2="{x(floor)}" y1="{middle - 10}" y2="{middle + 10}"/>',
        f'<line class="interval" x1="{x(low)}" x2="{x(high)}" y1="{middle}" y2="{middle}"/>',
        f'<circle class="value" cx="{x(value)}" cy="{middle}" r="4.5"/>',
    ]
    return _svg(TRACK_WIDTH, TRACK_HEIGHT, "track", parts)


def lines(series: Mapping[str, Sequence[Point]], width: int = 320, height: int = 190) -> str:
    """A chart of lines over steps; each has its name as a class."""
    points = [point for line in series.values() for point in line if math.isfinite(point[1])]
    last = max(step for step, _ in points)
    marks = ticks(min(value for _, value in points), max(value for _, value in points))
    bottom, top = marks[0], marks[-1]

    def x(step: Number) -> float:
        return round(LEFT + (width - LEFT - RIGHT) * step / max(last, 1), 1)

    def y(value: Number) -> float:
        return round(height - BOTTOM - (height - TOP - BOTTOM) * (value - bottom) / (top - bottom), 1)

    parts = []
    for mark in marks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{y(mark)}" y2="{y(mark)}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(mark) + 3.5}" text-anchor="end">{mark:g}</text>')
    for step, anchor in ((0, "start"), (last, "end")):
        parts.append(f'<text x="{x(step)}" y="{height - 7}" text-anchor="{anchor}">{step:,.0f}</text>')
    parts.append(f'<text x="{(LEFT + width - RIGHT) / 2}" y="{height - 7}" text-anchor="middle">steps</text>')
    for name, line in series.items():
        path = " ".join(f"{x(step)},{y(value)}" for step, value in line if math.isfinite(value))
        parts.append(f'<polyline class="line {name}" points="{path}"/>')
        if len(line) <= 30:
            parts += [f'<circle class="dot {name}" cx="{x(s)}" cy="{y(v)}" r="2.2"/>' for s, v in line]
    return _svg(width, height, "chart", parts)


def ticks(low: Number, high: Number, most: int = 5) -> list[Number]:
    """Round numbers, at most `most` + 1, from at or below `low` to at or above `high`."""
    span = max(high - low, abs(high) * 0.02, 1e-9)
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(step for step in (power * each for each in (1, 2, 2.5, 5, 10, 20)) if span / step <= most - 1)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _svg(width: int, height: int, name: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="{name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}">{"".join(parts)}</svg>'
    )
