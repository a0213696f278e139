"""A decoder at work: a request is a prompt and the tokens that follow, drawn greedily with a static cache."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.data.tokenizer import EOS
from components.decoders.config import SamplingConfig
from components.decoders.sampling import generate

METRIC, BETTER = "bits_per_byte", "lower"
PART = "decoder"  # of what is served, which a variant replaces
ITEMS = "tokens"
PROMPT, NEW = 16, 32  # tokens; fewer in a context that is too short for both
ROWS = 16  # read at once


def requests(served: Any, records: Sequence[dict[str, Any]], count: int) -> list[Callable[[], object]]:
    rows = prompts(served, records).to(served.decoder.embedding.weight.device)
    return [partial(decode, served.decoder, rows[number % len(rows)].unsqueeze(0)) for number in range(count)]


def batch(served: Any, records: Sequence[dict[str, Any]], size: int) -> tuple[Callable[[], object], int]:
    """A batch, and how many items it answers."""
    rows = prompts(served, records)[:size]
    return partial(decode, served.decoder, rows), len(rows) * new(served.decoder.context)


def quality(served: Any, records: Sequence[dict[str, Any]]) -> float:
    """The split as one row with an <eos> behind each text, in windows of one context, each read by itself."""
    context = served.decoder.context
    ids = row(served, records)
    rest = -(len(ids) - 1) % context
    targets = F.pad(ids[1:], (0, rest), value=-1).view(-1, context)
    inputs = F.pad(ids[:-1], (0, rest), value=EOS).view(-1, context)
    nats = 0.0
    with torch.no_grad():
        for some, wanted in zip(inputs.split(ROWS), targets.split(ROWS), strict=True):
            logits = served.decoder(some).float().flatten(0, 1)
            nats += F.cross_entropy(logits, wanted.flatten(), ignore_index=-1, reduction="sum").item()
    return nats / math.log(2) / sum(len(record["text"].encode()) + 1 for record in records)


def row(served: Any, records: Sequence[dict[str, Any]]) -> Tensor:
    """Int [n]: an <eos>, and each text with one behind it."""
    texts = served.tokenizer.encode_batch([record["text"] for record in records], add_special_tokens=False)
    return torch.tensor([EOS, *(token for text in texts for token in (*text.ids, EOS))])


def prompts(served: Any, records: Sequence[dict[str, Any]]) -> Tensor:
    """Int [n, tokens]: the split cut into prompts of one length."""
    length = min(PROMPT, served.decoder.context // 2)
    ids = row(served, records)
    return ids[: len(ids) // length * length].view(-1, length)


def new(context: int) -> int:
    return min(NEW, context - min(PROMPT, context // 2))


def decode(decoder: Any, rows: Tensor) -> Tensor:
    return generate(decoder, rows, new(decoder.context), SamplingConfig(temperature=0.0), torch.Generator())
