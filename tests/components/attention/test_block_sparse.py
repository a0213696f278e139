"""Block-sparse attention against a dense mask, and the pattern against BigBird's description."""

import numpy as np
import pytest
import torch

from components.attention.block_sparse import BlockSparseCore, seen_blocks
from tests.components.attention.dense import compare, inputs, softmax, tail


def allowed(core: BlockSparseCore, length: int) -> torch.Tensor:
    """The pattern of blocks, blown up to tokens."""
    block, *sizes, causal = core.sizes
    blocks = torch.from_numpy(seen_blocks(-(-length // block), *sizes, causal))
    tokens = blocks.repeat_interleave(block, 0).repeat_interleave(block, 1)[:length, :length]
    return (tokens.tril() if causal else tokens)[None]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("length", "block"), [(1, 4), (3, 4), (4, 4), (5, 4), (61, 4), (64, 8), (150, 16), (97, 1)])
def test_equals_a_dense_mask_and_its_gradients(length, block, causal):
    core, given = BlockSparseCore(block=block, seed=3, causal=causal), inputs(length)
    compare(core, given, softmax(*given[:3], allowed(core, length)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads_and_padding(groups, causal):
    core, given, mask = BlockSparseCore(block=8, causal=causal), inputs(147, groups=groups), tail(147)
    compare(core, given, softmax(*given[:3], allowed(core, 147) & mask[:, None]), mask)


@pytest.mark.parametrize(("window", "globals", "random"), [(1, 0, 0), (1, 0, 3), (5, 2, 0), (99, 0, 0), (3, 99, 9)])
@pytest.mark.parametrize("causal", [False, True])
def test_other_counts(window, globals, random, causal):
    core = BlockSparseCore(block=4, window=window, globals=globals, random=random, causal=causal)
    given = inputs(50)
    compare(core, given, softmax(*given[:3], allowed(core, 50)))


def test_window_globals_and_random_blocks_are_there_and_no_others():
    seen = seen_blocks(20, 3, 2, 4, 7, False)
    assert seen[:2].all() and seen[:, :2].all()
    for row in range(2, 20):
        rest = set(range(2, 20)) & set(np.flatnonzero(seen[row])) - {row - 1, row, row + 1}
        assert {row - 1, row, min(row + 1, 19)} <= set(np.flatnonzero(seen[row]))
        assert len(rest) == 4


def test_causal_blocks_are_the_last_of_the_window_the_first_and_earlier_ones():
    seen = seen_blocks(20, 3, 1, 2, 7, True)
    assert not np.triu(seen, 1).any()
    for row in range(20):
        assert {0, row, max(row - 1, 0), max(row - 2, 0)} <= set(np.flatnonzero(seen[row]))
        assert seen[row].sum() == min(row + 1, 6)


def test_the_draw_is_the_seeds_alone():
    assert (seen_blocks(30, 3, 1, 2, 5, False) == seen_blocks.__wrapped__(30, 3, 1, 2, 5, False)).all()
    assert (seen_blocks(30, 3, 1, 2, 5, False) != seen_blocks(30, 3, 1, 2, 6, False)).any()


def test_a_prefix_gives_what_the_whole_gives():
    core = BlockSparseCore(block=4, causal=True)
    *whole, _ = inputs(60)
    prefix = core(*(part[:, :, :37] for part in whole))
    torch.testing.assert_close(prefix, core(*whole)[:, :, :37])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"block": 0}, "block is 0: it must be at least 1"),
        ({"window": 0}, "window is 0: it must be at least 1"),
        ({"globals": -1}, "globals is -1: it must be at least 0"),
        ({"random": -2}, "random is -2: it must be at least 0"),
        ({"window": 4}, "window is 4 blocks, itself counted: it must be odd"),
    ],
)
def test_refuses_sizes_that_mean_nothing(sizes, message):
    with pytest.raises(ValueError, match=message):
        BlockSparseCore(**sizes, causal=False)
