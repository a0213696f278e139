"""Text encoder, masked language model and classifier."""

import pytest
import torch

from components.encoders.classifier import Classifier
from components.encoders.masked_language import MaskedLanguageModel
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.transformer.config import TransformerConfig

LENGTHS = torch.tensor([[12], [7], [1]])


@pytest.fixture
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(TextConfig(TransformerConfig(width=32, depth=2, heads=4), context=16), vocabulary=40)


@pytest.fixture
def batch():
    mask = torch.arange(12) < LENGTHS
    return torch.randint(40, (3, 12), generator=torch.Generator().manual_seed(0)), mask


def test_a_padded_text_equals_the_text_alone(encoder, batch):
    ids, mask = batch
    encoded = encoder(ids, mask)
    for row, length in enumerate(LENGTHS.flatten().tolist()):
        alone = encoder(ids[row : row + 1, :length])
        torch.testing.assert_close(encoded.tokens[row, :length], alone.tokens[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoded.pooled[row], alone.tokens[0].mean(0), atol=1e-5, rtol=1e-5)
        assert alone.mask.all()
    assert torch.equal(encoded.mask, mask)


def test_masked_language_logits_stand_in_the_order_of_the_chosen(encoder, batch):
    ids, mask = batch
    model = MaskedLanguageModel(encoder)
    chosen = mask & (torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.4)
    everywhere = model.head(encoder(ids, mask).tokens.flatten(0, 1)).view(3, 12, 40)
    torch.testing.assert_close(model(ids, mask, chosen), everywhere[chosen], atol=1e-5, rtol=1e-5)


def test_masked_language_model_learns_a_rule_and_every_parameter_takes_part(encoder):
    """Token i of a row is 4 + (first + i) mod 16: a hidden one follows from any other."""
    model = MaskedLanguageModel(encoder)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        targets = 4 + (torch.randint(16, (32, 1), generator=generator) + torch.arange(12)) % 16
        chosen = torch.rand(32, 12, generator=generator) < 0.25
        logits = model(targets.masked_fill(chosen, 3), None, chosen)
        loss = torch.nn.functional.cross_entropy(logits, targets[chosen])
        loss.backward()
        assert all(weight.grad is not None and weight.grad.any() for weight in model.parameters())
        optimiser.step()
        optimiser.zero_grad()
    assert (logits.argmax(-1) == targets[chosen]).float().mean() > 0.95


def test_classifier_starts_near_equal_chances_and_trains_its_encoder_from_the_first_step(encoder, batch):
    model = Classifier(encoder, classes=5, dropout=0.1)
    logits = model(*batch)
    assert (logits.log_softmax(-1).exp() - 1 / 5).abs().max() < 0.6
    torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long)).backward()
    assert encoder.embedding.weight.grad is not None
    assert encoder.embedding.weight.grad.any()


def test_packed_texts_guess_what_padded_ones_do(encoder):
    model = MaskedLanguageModel(encoder).eval()
    lengths = (12, 4, 7)
    ids, mask = torch.randint(40, (3, 12)), torch.arange(12) < torch.tensor(lengths)[:, None]
    chosen = (torch.rand(3, 12) < 0.5) & mask
    packed = model(ids[mask][None], None, chosen[mask][None], lengths)
    torch.testing.assert_close(packed, model(ids, mask, chosen), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["first", "last"])
def test_pool_takes_the_first_or_last_real_token(batch, pool):
    ids, mask = batch
    config = TextConfig(TransformerConfig(width=32, depth=2, heads=4), context=16, causal=True, pool=pool)
    encoder = TextEncoder(config, vocabulary=40)
    encoded = encoder(ids, mask)
    for row, length in enumerate(LENGTHS.flatten().tolist()):
        alone = encoder(ids[row : row + 1, :length])
        torch.testing.assert_close(encoded.pooled[row], alone.tokens[0, 0 if pool == "first" else length - 1])
        torch.testing.assert_close(alone.pooled[0], encoded.pooled[row])


def test_causal_encoder_does_not_look_ahead(batch):
    ids, _ = batch
    encoder = TextEncoder(TextConfig(TransformerConfig(width=32, depth=2, heads=4), context=16, causal=True), 40)
    changed = ids.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 40
    torch.testing.assert_close(encoder(changed).tokens[:, :5], encoder(ids).tokens[:, :5])


def test_segments_add_a_vector_each_and_are_0_where_none_are_given(batch):
    ids, mask = batch
    config = TextConfig(TransformerConfig(width=32, depth=2, heads=4), context=16, segments=2)
    encoder = TextEncoder(config, vocabulary=40)
    segments = (torch.arange(12) >= 5).long().expand(3, 12)
    torch.testing.assert_close(encoder(ids, mask).tokens, encoder(ids, mask, torch.zeros_like(ids)).tokens)
    told = encoder(ids, mask, segments).tokens
    expected = encoder.stack(encoder.embedding(ids) + encoder.segments.weight[segments], mask)
    torch.testing.assert_close(told, expected)
    torch.testing.assert_close(encoder.contextual(ids[:1], None, [12], segments[:1]), told[:1], atol=1e-5, rtol=1e-5)


def test_segments_of_an_encoder_without_any_are_refused(encoder, batch):
    with pytest.raises(ValueError, match="tells no segments apart: set `segments`"):
        encoder(batch[0], None, torch.zeros_like(batch[0]))
