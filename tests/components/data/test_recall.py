"""Sequences of the recall task: where the value stands, what they depend on, and how far a guess gets."""

import numpy as np
import pytest

from components.data.loader import Loader
from components.data.recall import HELD_OUT, QUERY, VALUES, Recall, collate

FIXED = Recall(count=2000, length=20, distance=16, values=4, noise=3, seed=5)
ANYWHERE = Recall(count=2000, length=20, distance=None, values=4, noise=3, seed=5)


def places(recall: Recall) -> list[int]:
    """Distance of the only value to the query at the end; everything else is noise."""
    found = []
    for index in range(recall.count):
        ids, value = recall(index)
        (carriers,) = np.nonzero((ids >= VALUES) & (ids < VALUES + recall.values))
        assert len(carriers) == 1 and ids[carriers[0]] == value
        assert ids.dtype == np.int64 and ids.shape == (recall.length,) and ids[-1] == QUERY
        noise = np.delete(ids, [carriers[0], -1])
        assert noise.min() >= VALUES + recall.values and noise.max() < recall.vocabulary
        found.append(recall.length - 1 - int(carriers[0]))
    return found


def test_the_value_stands_at_the_distance() -> None:
    assert set(places(FIXED)) == {16}


def test_without_a_distance_it_stands_anywhere_before_the_query() -> None:
    counts = np.bincount(places(ANYWHERE), minlength=20)[1:]
    assert counts.sum() == 2000 and counts.min() > 60 and counts.max() < 150  # 105 each, were they equal


@pytest.mark.parametrize("recall", [FIXED, ANYWHERE])
def test_a_guess_is_right_as_often_as_chance_says(recall: Recall) -> None:
    values = [recall(index)[1] for index in range(recall.count)]
    assert recall.chance == 0.25
    assert np.bincount(values)[VALUES:] / recall.count == pytest.approx([recall.chance] * 4, abs=0.04)


def test_a_sequence_is_a_function_of_seed_part_and_index() -> None:
    same, other, part = (
        Recall(9, 20, 16, 4, 3, seed, part).__call__(3)[0] for seed, part in ((5, 0), (6, 0), (5, HELD_OUT))
    )
    assert np.array_equal(same, FIXED(3)[0])
    assert not np.array_equal(same, other) and not np.array_equal(same, part)
    assert not np.array_equal(same, FIXED(4)[0])


def test_a_loader_makes_batches_of_it() -> None:
    ids, values = Loader(FIXED, collate, 8, seed=1)[0]
    assert ids.shape == (8, 20) and values.shape == (8,)
    assert (ids[:, 3] == values).all()


@pytest.mark.parametrize("distance", [0, 20])
def test_a_distance_that_does_not_fit_is_refused(distance: int) -> None:
    with pytest.raises(ValueError, match=f"a distance of {distance} does not fit into 20 tokens with the query"):
        Recall(count=1, length=20, distance=distance, values=4, noise=3, seed=5)
