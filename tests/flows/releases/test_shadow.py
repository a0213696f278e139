"""What of two answers is compared, by the shapes in which the routes write them down."""

from typing import Any

import pytest

from flows.releases.shadow import Comparison, compare

FOUND = {"found": [{"key": "a", "score": 0.9}, {"key": "b", "score": 0.8}]}


@pytest.mark.parametrize(
    ("champion", "shadow", "expected"),
    [
        ({"text": "a b", "finish": "stop"}, "a b", (1, 1)),  # a completion: the shadow's text stands alone
        ({"text": "a b"}, {"text": "a"}, (1, 0)),  # a transcript
        ({"labels": ["x", "y"], "shares": [0.9, 0.8]}, {"labels": ["x", "y"], "shares": [0.6, 0.7]}, (1, 1)),
        (FOUND, {"found": FOUND["found"][:1]}, (1, 1)),  # the first picture counts
        (FOUND, {"found": FOUND["found"][::-1]}, (1, 0)),
        (None, None, (0, 0)),  # vectors are not written down
    ],
)
def test_answers_are_the_same_or_not(champion: Any, shadow: Any, expected: tuple[int, int]) -> None:
    rows = [
        {"id": "1", "role": "champion", "status": 200, "output": champion},
        {"id": "2", "role": "shadow", "status": 200, "output": {"shadow_of": "1", "output": shadow}},
        {"id": "3", "role": "shadow", "status": 200, "output": {"shadow_of": "0", "output": shadow}},  # of none here
        {"id": "4", "role": "shadow", "status": 504, "output": {"shadow_of": "1"}},
    ]
    assert compare(rows) == Comparison(*expected)
