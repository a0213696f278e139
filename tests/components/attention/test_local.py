"""The sliding window against its definition as a dense mask."""

import pytest
import torch

from components.attention.local import LocalCore
from tests.components.attention.dense import compare, inputs, softmax, tail


def allowed(length: int, window: int, causal: bool) -> torch.Tensor:
    """Pair by pair, as the docstring says it."""

    def sees(query: int, key: int) -> bool:
        return query - window < key <= query if causal else abs(query - key) <= window

    return torch.tensor([[[sees(query, key) for key in range(length)] for query in range(length)]])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("length", "window"),
    [(1, 1), (1, 5), (2, 1), (7, 3), (64, 16), (150, 1), (150, 20), (150, 64), (131, 149), (200, 500)],
)
def test_equals_a_dense_mask_and_its_gradients(length, window, causal):
    given = inputs(length)
    expected = softmax(*given[:3], allowed(length, window, causal))
    compare(LocalCore(window=window, causal=causal), given, expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_heads_and_padding(groups, causal):
    given, mask = inputs(147, groups=groups), tail(147)
    expected = softmax(*given[:3], allowed(147, 13, causal) & mask[:, None])
    compare(LocalCore(window=13, causal=causal), given, expected, mask)


def test_tiles_of_a_wide_window_are_wider():
    given = inputs(700, heads=1, groups=1, batch=1, features=2)
    core = LocalCore(window=512, causal=True)
    assert core.pattern(700).tile == 128
    compare(core, given, softmax(*given[:3], allowed(700, 512, True)))


@pytest.mark.parametrize("pieces", [[1] * 20, [9, 1, 7, 3], [20]])
@pytest.mark.parametrize("window", [1, 4, 50])
def test_pieces_that_follow_a_cache_equal_one_pass(pieces, window):
    queries, keys, values, _ = inputs(20)
    core, mask = LocalCore(window=window, causal=True), tail(20)
    whole = core(queries, keys, values, mask)
    stop, parts = 0, []
    for piece in pieces:
        stop += piece
        parts.append(core(queries[:, :, stop - piece : stop], keys[:, :, :stop], values[:, :, :stop], mask[:, :stop]))
    real = mask[:, None, :, None]
    torch.testing.assert_close(torch.cat(parts, 2).where(real, 0.0), whole.where(real, 0.0))


def test_refuses_an_empty_window():
    with pytest.raises(ValueError, match="window is 0: it must be at least 1 token"):
        LocalCore(window=0, causal=True)
