"""Judges a causal decoder by bits per byte of unseen text, beside `xz -9e`.

The test split is one file: each text, then a separator, which is the end token to the model and a newline to xz. Bits
are those of all tokens of that file, separators included, over its bytes. Windows slide by half a context.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tokenizers import Tokenizer

from components.data.tokenizer import EOS
from components.decoders.causal import CausalDecoder
from components.decoders.config import SamplingConfig
from components.decoders.sampling import generate
from components.evaluation.bootstrap import bootstrap
from components.evaluation.floors import Splits, xz_bits_per_byte
from components.evaluation.metrics import sliding_windows
from components.evaluation.pictures import by_context
from components.evaluation.results import Judgement, Result

BATCH = 16  # windows at once
UNITS = 40  # least number of texts that are resampled whole; fewer are cut into blocks
BLOCK = 512  # tokens
PROMPT, CONTINUED = 24, 120  # characters of a prompt (half a short text), tokens that follow it
SHOWN = 6
SAMPLING = SamplingConfig(temperature=0.8, top_p=0.95)
UNIFORM = 8.0  # bits a byte when every byte is as likely


class Speaks(Protocol):
    """A trained decoder in eval mode, and its tokenizer."""

    decoder: CausalDecoder
    tokenizer: Tokenizer


@dataclass(frozen=True)
class File:
    """Texts with their separators as one row of tokens, and to which text and how many bytes each token belongs."""

    tokens: Int[np.ndarray, " n"]
    text: Int[np.ndarray, " n"]
    size: Int[np.ndarray, " n"]  # bytes


def judge(model: Speaks, data: Splits, samples: int, seed: int) -> Judgement:
    """data: Records of each split, with `text`."""
    texts = [record["text"] for record in data.test]
    file = _encode(texts, model.tokenizer)
    nats, by_place = _read(model.decoder, file)
    units = _units(file)
    bits = np.bincount(units, nats) / np.log(2)
    sizes = np.bincount(units, file.size)
    known = "".join(record["text"] + "\n" for split in (data.train, data.valid) for record in split)
    floor = xz_bits_per_byte(known.encode(), "".join(text + "\n" for text in texts).encode())
    result = Result(
        "bits_per_byte",
        "lower",
        bootstrap(bits, sizes, samples, seed),
        floor,
        UNIFORM,
        count=len(bits),
        further={
            "bytes": int(file.size.sum()),
            "tokens": len(file.tokens),
            "perplexity": float(np.exp(nats.mean())),
        },
    )
    return Judgement([result], by_context(by_place, floor), _continued(model, texts, seed))


def bits(model: Speaks, texts: list[str]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Bits that each text costs with its separator, and its bytes: comparable between models of any tokenizer."""
    file = _encode(texts, model.tokenizer)
    nats, _ = _read(model.decoder, file)
    return np.bincount(file.text, nats) / np.log(2), np.bincount(file.text, file.size)


def _encode(texts: list[str], tokenizer: Tokenizer) -> File:
    rows = [[*row.ids, EOS] for row in tokenizer.encode_batch(texts, add_special_tokens=False)]
    tokens = np.concatenate([np.array(row) for row in rows])
    lengths = np.array([len(tokenizer.id_to_token(i) or "") for i in range(tokenizer.get_vocab_size())])
    lengths[EOS] = 1  # a byte-level token has one character a byte; the separator is a newline
    return File(tokens, np.repeat(np.arange(len(rows)), [len(row) for row in rows]), lengths[tokens])


@torch.no_grad()
def _read(decoder: CausalDecoder, file: File) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " context"]]:
    """Nats that each token costs, and mean bits a byte at each place of a window (place i sees i + 1 tokens)."""
    device, context, count = decoder.embedding.weight.device, decoder.context, len(file.tokens)
    row = torch.cat([torch.tensor([EOS]), torch.from_numpy(file.tokens)])  # a text follows a separator
    nats, at_place = np.zeros(count), np.zeros((2, context))  # nats and bytes
    for windows in _batched(sliding_windows(count, context)):
        ids = torch.full((len(windows), context + 1), EOS)
        for line, (start, _) in enumerate(windows):
            part = row[start : start + context + 1]
            ids[line, : len(part)] = part
        logits = decoder(ids[:, :-1].to(device)).float()
        costs = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:].to(device), reduction="none").cpu().numpy()
        for cost, (start, first) in zip(costs, windows, strict=True):
            guesses = min(context, count - start)
            nats[first : start + guesses] = cost[first - start : guesses]
            at_place[:, :guesses] += cost[:guesses], file.size[start : start + guesses]
    used = at_place[:, : min(context, count)]
    return nats, used[0] / np.log(2) / used[1]


def _batched(windows: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for start in range(0, len(windows), BATCH):
        yield windows[start : start + BATCH]


def _units(file: File) -> Int[np.ndarray, " n"]:
    """The unit of each token that is resampled: its text, or a block where there are few texts."""
    return file.text if file.text[-1] + 1 >= UNITS else np.arange(len(file.tokens)) // BLOCK


def _continued(model: Speaks, texts: list[str], seed: int) -> list[dict[str, Any]]:
    device = model.decoder.embedding.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    shown = []
    for text in dict.fromkeys(text[: min(PROMPT, len(text) // 2)] for text in texts[:SHOWN]):
        ids = [EOS, *model.tokenizer.encode(text, add_special_tokens=False).ids]
        most = min(CONTINUED, model.decoder.context - len(ids))
        drawn = generate(model.decoder, torch.tensor([ids], device=device), most, SAMPLING, generator, end=EOS)
        shown.append({"prompt": text, "text": model.tokenizer.decode(drawn[0].tolist())})
    return shown
