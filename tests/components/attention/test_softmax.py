"""The attention against softmax(Q K^T / sqrt(c)) V written out in float64, in every way that it may be called."""

import pytest
import torch

from components.attention.cache import Cache
from components.attention.positions import Place, positions
from components.attention.softmax import SoftmaxAttention

WIDTH, HEADS, LENGTH = 24, 3, 11


def dense(attention: SoftmaxAttention, tokens, allowed, rotation=None):
    """A loop over rows and heads, with full matrices. allowed: [b, n, m] bool."""
    weight, bias = attention.project_in.weight, attention.project_in.bias
    features = WIDTH // HEADS
    rows = []
    for row, may in zip(tokens, allowed, strict=True):
        queries, keys, values = (row @ weight.T + bias).split(WIDTH, dim=-1)
        mixed = []
        for head in range(HEADS):
            part = slice(head * features, (head + 1) * features)
            query, key, value = queries[:, part], keys[:, part], values[:, part]
            if rotation is not None:
                query, key = turn(query, *rotation), turn(key, *rotation)
            scores = (query @ key.T / features**0.5).masked_fill(~may, -torch.inf)
            powers = (scores - scores.amax(1, keepdim=True)).exp()
            mixed.append(powers / powers.sum(1, keepdim=True) @ value)
        rows.append(torch.cat(mixed, 1) @ attention.project_out.weight.T + attention.project_out.bias)
    return torch.stack(rows)


def turn(features, cosines, sines):
    """Rotation as a product of complex numbers."""
    half = features.shape[1] // 2
    turned = torch.complex(features[:, :half], features[:, half:]) * torch.complex(cosines, sines)
    return torch.cat([turned.real, turned.imag], 1)


@pytest.fixture
def tokens():
    return torch.randn(2, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def built(causal: bool) -> SoftmaxAttention:
    torch.manual_seed(1)
    return SoftmaxAttention(WIDTH, HEADS, causal=causal).double()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_equals_dense_attention_and_its_gradients(tokens, causal, padded, rotary):
    attention = built(causal)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [7]]) if padded else None
    rotation = None
    if rotary:
        rotation = positions("rotary", Place(LENGTH, WIDTH, HEADS, 1.0)).double().rotation(LENGTH, 0)
    allowed = torch.ones(2, LENGTH, LENGTH, dtype=torch.bool)
    if causal:
        allowed = allowed.tril()
    if mask is not None:
        allowed = allowed & mask[:, None, :]

    given = attention(tokens, mask, rotation)
    expected = dense(attention, tokens, allowed, rotation)
    torch.testing.assert_close(given, expected)
    weights = list(attention.parameters())
    cotangent = torch.randn_like(given)
    torch.testing.assert_close(
        torch.autograd.grad(given, weights, cotangent), torch.autograd.grad(expected, weights, cotangent)
    )


@pytest.mark.parametrize("pieces", [[11], [1] * 11, [4, 1, 1, 5], [10, 1]])
def test_cached_pieces_equal_one_pass(tokens, pieces):
    attention = built(causal=True)
    rotary = positions("rotary", Place(LENGTH, WIDTH, HEADS, 1.0)).double()
    cache = Cache(1, 2, HEADS, LENGTH, WIDTH // HEADS, torch.float64, tokens.device)
    parts = []
    for piece in tokens.split(pieces, dim=1):
        rotation = rotary.rotation(piece.shape[1], cache.length)
        parts.append(attention(piece, None, rotation, cache))
        cache.advance(piece.shape[1])
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(parts, 1), attention(tokens, None, rotary.rotation(LENGTH, 0)))


def test_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="width 24 does not divide by heads 5"):
        SoftmaxAttention(24, 5, causal=False)
