"""The decoder: steps with a cache equal one pass; the output matrix is the embedding."""

import pytest
import torch

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.transformer.config import TransformerConfig


def built(positions="rotary", dropout=0.0) -> CausalDecoder:
    torch.manual_seed(0)
    config = TransformerConfig(width=32, depth=3, heads=4, positions=positions, dropout=dropout)
    return CausalDecoder(DecoderConfig(config, context=24), vocabulary=50)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("pieces", [[20], [12] + [1] * 8, [5, 9, 6]])
def test_cached_steps_equal_one_pass(positions, pieces):
    decoder = built(positions).eval()
    ids = torch.randint(50, (3, 20))
    cache = decoder.cache(3)
    with torch.no_grad():
        stepped = torch.cat([decoder.hidden(part, cache) for part in ids.split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(decoder.logits(stepped), decoder(ids), atol=1e-5, rtol=1e-5)
    assert cache.length == 20


def test_right_padding_changes_nothing_before_it():
    decoder = built()
    ids = torch.randint(50, (2, 20))
    padded = ids.clone()
    padded[:, 13:] = 0
    torch.testing.assert_close(decoder(padded)[:, :13], decoder(ids[:, :13]), atol=1e-5, rtol=1e-5)


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


def test_past_the_context_is_refused():
    with pytest.raises(ValueError, match="25 tokens do not fit a context of 24"):
        built()(torch.zeros(1, 25, dtype=torch.long))
