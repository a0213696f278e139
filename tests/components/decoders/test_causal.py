"""The decoder: steps with a cache equal one pass; the output matrix is the embedding."""

import pytest
import torch
import torch.nn.functional as F

from components.attention.config import Local, Performer
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.decoders.loss import IGNORED
from components.transformer.config import TransformerConfig


def built(positions="rotary", dropout=0.0, tied=True, smoothing=0.0, **shape) -> CausalDecoder:
    torch.manual_seed(0)
    config = TransformerConfig(width=32, depth=3, heads=4, positions=positions, dropout=dropout, **shape)
    return CausalDecoder(DecoderConfig(config, 24, tied, smoothing), vocabulary=50)


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "learned", "rotary", "alibi", "relative"])
@pytest.mark.parametrize("pieces", [[20], [12] + [1] * 8, [5, 9, 6]])
def test_cached_steps_equal_one_pass(positions, pieces):
    decoder = built(positions).eval()
    ids = torch.randint(50, (3, 20))
    cache = decoder.cache(3)
    with torch.no_grad():
        stepped = torch.cat([decoder.hidden(part, cache) for part in ids.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(decoder.logits(stepped), decoder(ids), atol=1e-5, rtol=1e-5)
    assert cache.length == 20


def test_cached_steps_of_a_sliding_window_equal_one_pass():
    decoder = built(attention=Local(window=5), key_value_heads=2).eval()
    ids, cache = torch.randint(50, (3, 20)), decoder.cache(3)
    with torch.no_grad():
        stepped = torch.cat([decoder.hidden(part, cache) for part in ids.split([9] + [1] * 11, dim=1)], dim=1)
        torch.testing.assert_close(decoder.logits(stepped), decoder(ids), atol=1e-5, rtol=1e-5)


def test_a_kind_of_attention_without_a_cache_says_so():
    decoder = built(attention=Performer()).eval()
    cache = decoder.cache(1)
    decoder.hidden(torch.zeros(1, 4, dtype=torch.long), cache)
    with pytest.raises(ValueError, match=r"no cache and no keys of another"):
        decoder.hidden(torch.zeros(1, 1, dtype=torch.long), cache)


def test_right_padding_changes_nothing_before_it():
    decoder = built()
    ids = torch.randint(50, (2, 20))
    padded = ids.clone()
    padded[:, 13:] = 0
    torch.testing.assert_close(decoder(padded)[:, :13], decoder(ids[:, :13]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [[20], [12] + [1] * 8])
def test_left_padding_under_a_mask_changes_nothing_behind_it(pieces):
    decoder = built().eval()
    ids = torch.randint(50, (2, 20))
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[0, :7] = False
    cache, seen, stepped = decoder.cache(2), 0, []
    with torch.no_grad():
        for part in ids.split(pieces, dim=1):
            seen += part.shape[1]
            stepped.append(decoder.hidden(part, cache, mask=mask[:, :seen]))
        logits = decoder.logits(torch.cat(stepped, dim=1))
        torch.testing.assert_close(logits[:1, 7:], decoder(ids[:1, 7:]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits[1:], decoder(ids[1:]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits, decoder(ids, mask), atol=1e-5, rtol=1e-5)


def test_learns_a_sequence_by_heart_and_every_parameter_takes_part():
    decoder = built(positions="learned", dropout=0.1)
    ids = torch.randint(50, (4, 25))
    optimiser = torch.optim.AdamW(decoder.parameters(), 1e-2)
    losses = []
    for _ in range(100):
        loss = decoder.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        assert all(weight.grad is not None and weight.grad.any() for weight in decoder.parameters())
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(50.0).log().item(), abs=0.2)  # starts at even chances
    assert losses[-1] < 0.5


def test_output_matrix_is_the_embedding():
    decoder = built()
    assert not [
        name for name, weight in decoder.named_parameters() if weight.shape[0] == 50 and "embedding" not in name
    ]
    hidden = torch.randn(2, 32)
    torch.testing.assert_close(decoder.logits(hidden), hidden @ decoder.embedding.weight.T)


def test_an_output_matrix_of_its_own_where_it_is_not_tied():
    decoder = built(tied=False)
    hidden = torch.randn(2, 32)
    assert not torch.equal(decoder.head.weight, decoder.embedding.weight)
    torch.testing.assert_close(decoder.logits(hidden), hidden @ decoder.head.weight.T)


def test_labels_are_smoothed_while_training_only():
    decoder, plain = built(smoothing=0.2), built()
    ids = torch.randint(50, (2, 20))
    smoothed = F.cross_entropy(decoder(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), label_smoothing=0.2)
    torch.testing.assert_close(decoder.loss(ids[:, :-1], ids[:, 1:]), smoothed)
    torch.testing.assert_close(decoder.eval().loss(ids[:, :-1], ids[:, 1:]), plain.loss(ids[:, :-1], ids[:, 1:]))


@pytest.mark.parametrize("positions", ["learned", "rotary", "relative"])
def test_packed_rows_have_the_loss_of_padded_ones(positions):
    decoder = built(positions, key_value_heads=2, norm="rms", activation="swiglu", bias="none")
    lengths = (5, 20, 1, 11)
    ids, targets = torch.randint(50, (4, 20)), torch.randint(50, (4, 20))
    real = torch.arange(20) < torch.tensor(lengths)[:, None]
    padded = decoder.loss(ids, targets.where(real, IGNORED))
    packed = decoder.loss(ids[real][None], targets[real][None], lengths)
    torch.testing.assert_close(packed, padded)
    weights = list(decoder.parameters())
    torch.testing.assert_close(
        torch.autograd.grad(packed, weights), torch.autograd.grad(padded, weights), atol=1e-6, rtol=1e-4
    )


def test_past_the_context_is_refused():
    with pytest.raises(ValueError, match="25 tokens do not fit a context of 24"):
        built()(torch.zeros(1, 25, dtype=torch.long))
