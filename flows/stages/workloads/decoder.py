"""A decoder at work: a request is a prompt and the tokens that follow, drawn greedily by the engine that serves it.

Without its cache of prefixes: the same prompts come again in each round, and would cost nothing.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.data.tokenizer import EOS
from components.decoders.config import SamplingConfig
from components.inference.engine.engine import Engine

METRIC, BETTER = "bits_per_byte", "lower"
PART = "decoder"  # of what is served, which a variant replaces
ITEMS = "tokens"
PROMPT, NEW = 16, 32  # tokens; fewer in a context that is too short for both
ROWS = 16  # read at once
GREEDY = SamplingConfig(temperature=0.0)


def requests(served: Any, records: Sequence[dict[str, Any]], count: int) -> list[Callable[[], object]]:
    rows = prompts(served, records).tolist()
    engine = Engine(served.decoder, None, 1, prefix_bytes=0)
    return [partial(decode, engine, [rows[number % len(rows)]]) for number in range(count)]


def batch(served: Any, records: Sequence[dict[str, Any]], size: int) -> tuple[Callable[[], object], int]:
    """A batch, and how many items it answers."""
    rows = prompts(served, records)[:size].tolist()
    engine = Engine(served.decoder, None, len(rows), prefix_bytes=0)
    return partial(decode, engine, rows), len(rows) * new(engine.context)


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


def decode(engine: Engine, rows: list[list[int]]) -> list[list[int]]:
    """The new tokens of each row; all are asked for at once."""
    running = [engine.submit(row, GREEDY, new(engine.context), seed=0) for row in rows]
    return [list(stream) for stream in running]
