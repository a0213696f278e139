"""The attention against softmax(Q K^T / sqrt(c)) V written out in float64, in every way that it may be called."""

import pytest
import torch

from components.attention.cache import Cache
from components.attention.config import BlockSparse, Linformer, Local, Performer, Softmax
from components.attention.multi_head import MultiHeadAttention, core
from components.attention.positions import Place, positions
from components.attention.softmax import SoftmaxCore
from components.attention.view import View

WIDTH, HEADS, LENGTH = 24, 6, 11
FEATURES = WIDTH // HEADS


def dense(attention: MultiHeadAttention, tokens, allowed, rotation=None, bias=None):
    """A loop over rows and heads, with full matrices. allowed: [b, n, m] bool."""
    groups = attention.key_value_heads
    weight, offset = attention.project_in.weight, attention.project_in.bias
    rows = []
    for row, may in zip(tokens, allowed, strict=True):
        projected = row @ weight.T if offset is None else row @ weight.T + offset
        parts = projected.split(FEATURES, dim=-1)
        mixed = []
        for head in range(HEADS):
            group = head // (HEADS // groups)
            query, key, value = parts[head], parts[HEADS + group], parts[HEADS + groups + group]
            if attention.head_norms is not None:
                query, key = (
                    part / (part.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
                    for part, norm in zip((query, key), attention.head_norms, strict=True)
                )
            if rotation is not None:
                query, key = turn(query, *rotation), turn(key, *rotation)
            scores = query @ key.T / FEATURES**0.5 + (0 if bias is None else bias[head])
            scores = scores.masked_fill(~may, -torch.inf)
            powers = (scores - scores.amax(1, keepdim=True)).exp()
            mixed.append(powers / powers.sum(1, keepdim=True) @ value)
        out = attention.project_out
        rows.append(torch.cat(mixed, 1) @ out.weight.T + (0 if out.bias is None else out.bias))
    return torch.stack(rows)


def turn(features, cosines, sines):
    """Rotation as a product of complex numbers."""
    half = features.shape[1] // 2
    turned = torch.complex(features[:, :half], features[:, half:]) * torch.complex(cosines[:, half:], sines[:, half:])
    return torch.cat([turned.real, turned.imag], 1)


@pytest.fixture
def tokens():
    return torch.randn(2, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def built(causal: bool, **options) -> MultiHeadAttention:
    torch.manual_seed(1)
    attention = MultiHeadAttention(WIDTH, HEADS, SoftmaxCore(causal=causal), **options).double()
    for norm in attention.head_norms or ():
        torch.nn.init.normal_(norm.weight, mean=1.0, std=0.3)
    return attention


def rotary():
    return positions("rotary", Place(LENGTH, WIDTH, HEADS, 1.0)).double()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"key_value_heads": 2},
        {"key_value_heads": 1, "bias": "qkv"},
        {"bias": "none", "head_norm": 1e-6, "key_value_heads": 3},
    ],
)
@pytest.mark.parametrize("kind", ["none", "rotary", "alibi"])
def test_equals_dense_attention_and_its_gradients(tokens, causal, padded, options, kind):
    attention = built(causal, **options)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [7]]) if padded else None
    place = positions(kind, Place(LENGTH, WIDTH, HEADS, 1.0)).double()
    rotation, bias = place.rotation(slice(0, LENGTH)), place.bias(LENGTH, LENGTH)
    allowed = torch.ones(2, LENGTH, LENGTH, dtype=torch.bool)
    if causal:
        allowed = allowed.tril()
    if mask is not None:
        allowed = allowed & mask[:, None, :]

    given = attention(tokens, View(mask, rotation, bias))
    expected = dense(attention, tokens, allowed, rotation, bias)
    torch.testing.assert_close(given, expected)
    weights = list(attention.parameters())
    cotangent = torch.randn_like(given)
    torch.testing.assert_close(
        torch.autograd.grad(given, weights, cotangent), torch.autograd.grad(expected, weights, cotangent)
    )


@pytest.mark.parametrize("pieces", [[11], [1] * 11, [4, 1, 1, 5], [10, 1]])
@pytest.mark.parametrize("kind", ["rotary", "alibi", "relative"])
def test_cached_pieces_equal_one_pass(tokens, pieces, kind):
    attention = built(causal=True, key_value_heads=2)
    place = positions(kind, Place(LENGTH, WIDTH, HEADS, 1.0, causal=True)).double()
    if kind == "relative":
        torch.nn.init.normal_(place.table.weight)
    cache = Cache(1, 2, 2, LENGTH, FEATURES, torch.float64, tokens.device)
    parts = []
    with torch.no_grad():
        for piece in tokens.split(pieces, dim=1):
            places = place.span(cache.length, piece.shape[1])
            bias = place.bias(piece.shape[1], places.stop)
            parts.append(attention(piece, View(None, place.rotation(places), bias, cache=cache)))
            cache.advance(piece.shape[1])
        whole = View(None, place.rotation(slice(0, LENGTH)), place.bias(LENGTH, LENGTH))
        torch.testing.assert_close(torch.cat(parts, 1), attention(tokens, whole))


CORES = [Softmax(), Local(window=3), BlockSparse(block=2), Linformer(rank=4), Performer(features=16)]


@pytest.mark.parametrize("kind", CORES, ids=lambda kind: kind.kind)
def test_packed_sequences_equal_each_by_itself(kind):
    torch.manual_seed(0)
    made = core(kind, causal=False, context=LENGTH, features=FEATURES, dropout=0.0)
    attention = MultiHeadAttention(WIDTH, HEADS, made)
    lengths = (3, 1, 7)
    tokens = torch.randn(1, sum(lengths), WIDTH)
    rotation = positions("rotary", Place(LENGTH, WIDTH, HEADS, 1.0)).rotation(
        torch.cat([torch.arange(length) for length in lengths])
    )
    packed = attention(tokens, View(rotation=rotation, lengths=lengths))
    first = 0
    for length in lengths:
        part = slice(first, first + length)
        alone = attention(tokens[:, part], View(rotation=(rotation[0][part], rotation[1][part])))
        torch.testing.assert_close(packed[:, part], alone)
        first += length


def test_dropped_weights_are_softmax_weights_that_are_kept_in_mean():
    torch.manual_seed(0)
    made = SoftmaxCore(causal=False, dropout=0.25)
    heads = torch.randn(1, 1, 40, 8)
    ones = torch.ones(1, 1, 40, 8)  # each output is then the sum of the weights that are left
    sums = torch.stack([made(heads, heads, ones)[..., 0] for _ in range(200)])
    assert sums.mean().item() == pytest.approx(1.0, abs=0.01)
    assert sums.std().item() > 0.01
    made.eval()
    torch.testing.assert_close(made(heads, heads, ones), ones)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "width 24 does not divide by heads 5"),
        ({"heads": 6, "key_value_heads": 4}, "heads 6 do not divide by key_value_heads 4"),
    ],
)
def test_refuses_heads_that_do_not_divide(options, message):
    with pytest.raises(ValueError, match=message):
        MultiHeadAttention(WIDTH, core=SoftmaxCore(causal=False), **options)
