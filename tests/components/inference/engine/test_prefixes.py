"""Blocks of known prefixes: what comes back, what is forgotten first, and the budget."""

import torch

from components.inference.engine.prefixes import BLOCK, Prefixes

LAYERS, HEADS, FEATURES = 2, 3, 4
SIZE = 2 * LAYERS * HEADS * FEATURES * BLOCK * 4  # bytes of a block


def kept(prefixes: Prefixes, tokens: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(sum(tokens))
    keys, values = torch.randn(2, LAYERS, HEADS, len(tokens), FEATURES)
    prefixes.keep(tokens, keys, values)
    return keys, values


def known(prefixes: Prefixes, tokens: list[int]) -> int:
    return len(prefixes.find(tokens)) * BLOCK


def test_the_shared_beginning_comes_back_bit_for_bit():
    prefixes, first, second = Prefixes(1 << 20), list(range(70)), [*range(40), *range(100, 130)]
    keys, values = kept(prefixes, first)
    found = [torch.cat(blocks, dim=2) for blocks in zip(*prefixes.find(second), strict=True)]
    assert torch.equal(found[0], keys[:, :, : 2 * BLOCK])
    assert torch.equal(found[1], values[:, :, : 2 * BLOCK])
    assert (prefixes.found, prefixes.asked) == (2 * BLOCK, 70)


def test_the_last_token_is_always_computed():
    prefixes = Prefixes(1 << 20)
    kept(prefixes, list(range(2 * BLOCK)))
    assert known(prefixes, list(range(2 * BLOCK))) == BLOCK
    assert known(prefixes, list(range(2 * BLOCK + 1))) == 2 * BLOCK


def test_a_block_counts_only_behind_the_same_beginning():
    prefixes = Prefixes(1 << 20)
    kept(prefixes, [1] * BLOCK + [2] * BLOCK)
    assert known(prefixes, [2] * BLOCK + [3]) == 0
    kept(prefixes, [3] * BLOCK + [2] * BLOCK)
    keys, _ = kept(Prefixes(1 << 20), [3] * BLOCK + [2] * BLOCK)
    found = prefixes.find([3] * BLOCK + [2] * BLOCK + [0])
    assert torch.equal(torch.cat([block[0] for block in found], dim=2), keys)


def test_the_least_recently_used_leaves_go_first_and_the_budget_holds():
    prefixes = Prefixes(4 * SIZE)
    for number in range(3):
        kept(prefixes, [0] * BLOCK + [10 + number] * BLOCK)  # one trunk, three leaves
    assert prefixes.bytes == 4 * SIZE
    assert known(prefixes, [0] * BLOCK + [10] * BLOCK + [0]) == 2 * BLOCK  # used: the second leaf is oldest now
    kept(prefixes, [0] * BLOCK + [20] * BLOCK)
    assert prefixes.bytes == 4 * SIZE
    lengths = [known(prefixes, [0] * BLOCK + [leaf] * BLOCK + [0]) for leaf in (10, 11, 12, 20)]
    assert lengths == [2 * BLOCK, BLOCK, 2 * BLOCK, 2 * BLOCK]


def test_of_a_text_larger_than_the_budget_the_beginning_is_kept():
    prefixes = Prefixes(3 * SIZE + 1)
    kept(prefixes, list(range(100)))
    assert prefixes.bytes == 3 * SIZE
    assert known(prefixes, list(range(100))) == 3 * BLOCK
    nothing = Prefixes(0)
    kept(nothing, list(range(100)))
    assert nothing.bytes == known(nothing, list(range(100))) == 0
