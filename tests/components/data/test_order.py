import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data.order import Order


@given(st.integers(1, 200), st.integers(0, 2**32), st.integers(0, 5), st.booleans(), st.integers(1, 9))
def test_each_epoch_is_a_permutation(count: int, seed: int, epoch: int, sort: bool, batch_size: int) -> None:
    lengths = np.arange(count) % 7 if sort else None
    order = Order(count, seed, lengths, batch_size)
    assert sorted(order[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


@given(st.data(), st.integers(1, 50), st.integers(0, 2**32), st.booleans())
def test_any_part_is_the_part_of_the_whole(data: st.DataObject, count: int, seed: int, sort: bool) -> None:
    lengths = np.arange(count) if sort else None
    whole = Order(count, seed, lengths, 4)[0 : 5 * count]
    start = data.draw(st.integers(0, 5 * count))
    stop = data.draw(st.integers(start, 5 * count))
    np.testing.assert_array_equal(Order(count, seed, lengths, 4)[start:stop], whole[start:stop])


def test_epochs_and_seeds_differ() -> None:
    order = Order(100, 0)
    assert order[0:100].tolist() != order[100:200].tolist()
    assert order[0:100].tolist() != Order(100, 1)[0:100].tolist()


def test_batches_hold_similar_lengths_in_every_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 1000, 1001)  # no multiple of the batch: later epochs are offset
    order = Order(1001, 0, lengths, 8)
    spread = [np.ptp(lengths[order[i * 8 : i * 8 + 8]]) for i in range(375)]  # three epochs
    assert np.median(spread) < 50  # at random it is about 780


def test_an_order_by_lengths_stays_what_it_was() -> None:
    """The bits of trained models depend on it: the first batches of two epochs, as the code gave them at first."""
    order = Order(100, 3, np.arange(100) * 37 % 101, 4)
    assert order[0:12].tolist() == [25, 96, 66, 36, 12, 83, 53, 23, 69, 39, 9, 80]
    assert order[100:112].tolist() == [6, 77, 47, 17, 70, 40, 10, 81, 57, 27, 98, 68]


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="the split is empty"):
        Order(0, 0)
