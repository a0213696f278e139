"""Walks: pure functions of seed and index, along the graph, at its entropy."""

from itertools import pairwise

import numpy as np

from components.data.walks import ENTROPY, Walks


def test_a_walk_is_a_function_of_seed_and_index():
    one, same, other = (Walks(64, 32, seed, 10) for seed in (1, 1, 2))
    assert np.array_equal(one(3, None), same(3, None))
    assert not np.array_equal(one(3, None), one(4, None))
    assert not np.array_equal(one(3, None), other(3, None))


def test_each_token_is_followed_by_its_own_four_about_equally():
    walks = Walks(8, 4000, 0, 1)
    walk = walks(0, None)
    assert all(after in walks.successors[before] for before, after in pairwise(walk))
    counts = np.zeros((8, 8))
    np.add.at(counts, (walk[:-1], walk[1:]), 1)
    shares = counts / counts.sum(1, keepdims=True)
    entropy = -(np.where(shares > 0, shares * np.log(np.maximum(shares, 1e-9)), 0).sum(1) * counts.sum(1)).sum() / 4000
    assert entropy <= ENTROPY  # two of the four may be one token
    assert entropy > 0.6 * ENTROPY
