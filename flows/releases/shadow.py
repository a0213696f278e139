"""Whether a shadow answers as the champion does, request by request; which of two is better only users can say."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """Of the requests that both answered, with what was written down of it: vectors are not."""

    compared: int
    agreed: int  # the same text, the same classes, the same picture first


def compare(rows: Iterable[dict[str, Any]]) -> Comparison:
    """Shadows beside what they are shadows of: rows of the table `requests`; those without the other are left out."""
    answered = [row for row in rows if row["status"] < 400]
    known = {row["id"]: _answer(row["output"]) for row in answered if row["role"] == "champion"}
    shadows = [row["output"] for row in answered if row["role"] == "shadow" and row["output"]]
    both = [(known.get(each["shadow_of"]), _answer(each.get("output"))) for each in shadows]
    written = [(one, other) for one, other in both if one is not None and other is not None]
    return Comparison(len(written), sum(one == other for one, other in written))


def _answer(output: Any) -> Any:
    """What counts of an answer, as the routes write it down; None where nothing does."""
    if not isinstance(output, dict):
        return output  # a shadow's text stands alone
    if "found" in output:
        return [each["key"] for each in output["found"]][:1]
    return output.get("labels", output.get("text"))
