"""A small decoder whose tokens are far from even chances, and what `generate` makes of a prompt with it."""

from functools import lru_cache

import torch

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig, SamplingConfig
from components.decoders.sampling import generate
from components.transformer.config import TransformerConfig

GREEDY = SamplingConfig(temperature=0.0)
CONTEXT, VOCABULARY = 96, 40


def built(seed: int = 0, tied: bool = True, **shape) -> CausalDecoder:
    torch.manual_seed(seed)
    config = TransformerConfig(**({"width": 32, "depth": 2, "heads": 4} | shape))
    decoder = CausalDecoder(DecoderConfig(config, CONTEXT, tied), vocabulary=VOCABULARY).eval()
    with torch.no_grad():
        decoder.embedding.weight.mul_(15)
        if decoder.head is not None:
            decoder.head.weight.mul_(15)
        for block in decoder.stack.blocks:
            block.attention.project_out.weight.mul_(30)
            block.feed_forward.project_out.weight.mul_(10)
    return decoder


def prompts(count: int, seed: int = 0, longest: int = 60) -> list[list[int]]:
    """Of mixed lengths; every second one repeats itself."""
    chance = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=chance).tolist()
    rows = [torch.randint(VOCABULARY, (length,), generator=chance).tolist() for length in lengths]
    return [(row[:5] * longest)[: len(row)] if index % 2 else row for index, row in enumerate(rows)]


def reference(decoder: CausalDecoder, prompt: list[int], tokens: int) -> list[int]:
    """Greedy tokens by `generate`."""
    return list(_reference(decoder, tuple(prompt), tokens))


@lru_cache
def _reference(decoder: CausalDecoder, prompt: tuple[int, ...], tokens: int) -> list[int]:
    return generate(decoder, torch.tensor([prompt]), tokens, GREEDY, torch.Generator())[0].tolist()
