"""Sampling: filtered distributions by hand, drawn frequencies, reproducibility, endings."""

import pytest
import torch

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig, SamplingConfig
from components.decoders.sampling import distribution, draw, generate
from components.transformer.config import TransformerConfig

SHARES = [0.1, 0.4, 0.05, 0.3, 0.15]
GREEDY = SamplingConfig(temperature=0.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def decoder() -> CausalDecoder:
    torch.manual_seed(0)
    config = TransformerConfig(width=32, depth=2, heads=4)
    decoder = CausalDecoder(DecoderConfig(config, context=32), vocabulary=20).eval()
    with torch.no_grad():  # far from even chances, and from repeating the last token
        decoder.embedding.weight.mul_(15)
        for block in decoder.stack.blocks:
            block.attention.project_out.weight.mul_(30)
            block.feed_forward.project_out.weight.mul_(10)
    return decoder


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SamplingConfig(), SHARES),
        (SamplingConfig(top_k=2), [0, 4 / 7, 0, 3 / 7, 0]),
        (SamplingConfig(top_k=99), SHARES),
        (SamplingConfig(top_p=0.39), [0, 1, 0, 0, 0]),
        (SamplingConfig(top_p=0.75), [0, 0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85]),  # 0.4 + 0.3 fall short of it
        (SamplingConfig(top_k=3, top_p=0.5), [0, 4 / 7, 0, 3 / 7, 0]),  # of the three, 0.4 / 0.85 alone falls short
        (SamplingConfig(temperature=0.5), [share**2 / 0.285 for share in SHARES]),
        (SamplingConfig(temperature=0.5, top_k=2), [0, 0.16 / 0.25, 0, 0.09 / 0.25, 0]),
    ],
)
def test_distribution_by_hand(config, expected):
    given = distribution(torch.tensor([SHARES]).log() + 3.0, config)
    torch.testing.assert_close(given, torch.tensor([expected], dtype=torch.float32), atol=1e-6, rtol=1e-5)


def test_drawn_frequencies_follow_the_distribution():
    logits = torch.tensor(SHARES).log().expand(20_000, 5)
    counts = torch.bincount(draw(logits, SamplingConfig(top_k=4), seeded()), minlength=5) / 20_000
    torch.testing.assert_close(counts, distribution(logits[:1], SamplingConfig(top_k=4))[0], atol=0.015, rtol=0)
    assert counts[2] == 0


def test_greedy_equals_an_argmax_loop_without_cache(decoder):
    prompts = torch.randint(20, (3, 6), generator=seeded())
    rows = prompts
    for _ in range(10):
        rows = torch.cat([rows, decoder(rows)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(decoder, prompts, 10, GREEDY, seeded()), rows[:, 6:])


def test_the_generators_state_alone_decides(decoder):
    prompts = torch.randint(20, (3, 6), generator=seeded())
    sampling = SamplingConfig(temperature=1.5, top_p=0.95)
    first, again, other = (generate(decoder, prompts, 12, sampling, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_end_on_their_own_and_the_batch_with_the_last(decoder):
    prompts = torch.randint(20, (4, 6), generator=seeded(5))
    free = generate(decoder, prompts, 20, SamplingConfig(), seeded(3))
    end = int(free[0, 4])
    given = generate(decoder, prompts, 20, SamplingConfig(), seeded(3), end=end)
    lengths = []
    for row, unstopped in zip(given, free, strict=True):
        places = (row == end).nonzero().flatten()
        length = int(places[0]) + 1 if len(places) else given.shape[1]
        lengths.append(length)
        assert torch.equal(row[:length], unstopped[:length])
        assert (row[length:] == end).all()
    assert given.shape[1] == max(lengths)


def test_prompt_and_new_tokens_must_fit_the_context(decoder):
    with pytest.raises(ValueError, match="6 prompt and 27 new tokens exceed the context of 32"):
        generate(decoder, torch.zeros(1, 6, dtype=torch.long), 27, GREEDY, seeded())
