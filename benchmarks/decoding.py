"""Decoding by the engine against transformers' `generate`, same Llama and same weights in one run: tokens a second.

    python -m benchmarks.decoding [--precision bf16] [--threads N] [--rounds N] [--json FILE]   about 5 minutes

6 x 384, vocabulary 8,192, random weights; prompts of 64 tokens, 128 new ones, greedy, no end token. To reach: 1.4x
`generate` with 16 streams (it decodes them as one batch; the engine as 16 requests that come at once), 1.7x with one,
and with int8 weights 3x with one. Without known prefixes and guesses, which each have rows of their own:

prefix: 16 requests that share 256 of 320 tokens, 16 new ones, with the cache of prefixes against without.
guesses: one stream with guesses against without, where they are the best (greedy tokens of random weights soon repeat
themselves) and where they are the worst (drawn at temperature 1, they never repeat): real texts lie between.

Both sides of a ratio take turns; the ratio is the median over rounds of paired times, in CPU seconds of this process
with one thread, and by the clock otherwise. `agree` is the share of greedy tokens that both sides drew up to the first
that differs in each row: rounding decides ties.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.environment import environment
from components.decoders.causal import CausalDecoder
from components.decoders.config import SamplingConfig
from components.inference.engine.engine import Engine
from components.inference.quantise import Int8Weights, quantise
from components.interop.folder import read

DEPTH, WIDTH, HEADS, VOCABULARY, CONTEXT = 6, 384, 6, 8192, 512
PROMPT, NEW, STREAMS = 64, 128, 16
SHARED, OWN, FEW = 256, 64, 16  # tokens that prompts have in common, those they do not, new ones
GREEDY = SamplingConfig(temperature=0.0)
Rows = list[list[int]]
Work = Callable[[], Rows]  # decodes; the new tokens of each row


@dataclass(frozen=True)
class Pair:
    """Two ways of the same work, timed in turns."""

    name: str
    own: Work
    peer: Work
    reach: float | None = None  # times the peer's speed
    same: bool = True  # both decode the same tokens, but for rounding


@dataclass(frozen=True)
class Row:
    name: str
    own: float  # tokens a second
    peer: float
    ratio: float
    least: float
    most: float
    agree: float | None
    reach: float | None


def models(dtype: torch.dtype) -> tuple[torch.nn.Module, CausalDecoder]:
    """transformers' Llama with random weights, and ours with the same."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            intermediate_size=WIDTH * 8 // 3,
            num_hidden_layers=DEPTH,
            num_attention_heads=HEADS,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        own = read(Path(folder))
    assert isinstance(own, CausalDecoder)
    return torch.nn.Module.to(theirs, dtype).eval(), own.to(dtype).eval()


def generates(model: torch.nn.Module, prompts: Rows) -> Work:
    """One batch, as a user calls it."""
    ids = torch.tensor(prompts)
    settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    return lambda: model.generate(ids, attention_mask=mask, **settings)[:, ids.shape[1] :].tolist()  # type: ignore[operator]


def streams(
    engine: Engine, prompts: Rows, tokens: int = NEW, sampling: SamplingConfig = GREEDY, begins: Sequence[int] = ()
) -> Work:
    """As many requests as prompts, at once; seeds and, where all begin alike, the prompts differ from call to call."""
    calls = iter(range(sys.maxsize))

    def work() -> Rows:
        call = next(calls)
        rows = (
            [[*begins, *((token + call) % VOCABULARY for token in prompt)] for prompt in prompts] if begins else prompts
        )
        running = [engine.submit(row, sampling, tokens, call) for row in rows]
        return [list(stream) for stream in running]

    return work


def pairs(dtype: torch.dtype, generator: torch.Generator) -> tuple[list[Pair], list[Engine]]:
    theirs, own = models(dtype)
    engines: list[Engine] = []

    def engine(decoder: CausalDecoder, slots: int = STREAMS, prefix_bytes: int = 0, guesses: int = 0) -> Engine:
        engines.append(Engine(decoder, None, slots, prefix_bytes=prefix_bytes, guesses=guesses))
        return engines[-1]

    def drawn(rows: int, tokens: int) -> Rows:
        return torch.randint(VOCABULARY, (rows, tokens), generator=generator).tolist()

    many, one = drawn(STREAMS, PROMPT), drawn(1, PROMPT)
    begins, ends = drawn(1, SHARED)[0], drawn(STREAMS, OWN)
    int8 = quantise(own, Int8Weights)
    assert isinstance(int8, CausalDecoder)
    single = engine(own, 1)
    drawing = SamplingConfig()
    found = [
        Pair(f"{STREAMS} streams", streams(engine(own), many), generates(theirs, many), 1.4),
        Pair("1 stream", streams(single, one), generates(theirs, one), 1.7),
        Pair("1 stream, int8 weights", streams(engine(int8, 1), one), generates(theirs, one), 3.0, same=False),
        Pair(
            "prefix cache, against none",
            streams(engine(own, prefix_bytes=1 << 28), ends, FEW, begins=begins),
            streams(engine(own), ends, FEW, begins=begins),
        ),
        Pair("guesses at best, against none", streams(engine(own, 1, guesses=8), one), streams(single, one)),
        Pair(
            "guesses at worst, against none",
            streams(engine(own, 1, guesses=8), one, NEW, drawing),
            streams(single, one, NEW, drawing),
        ),
    ]
    return found, engines


def measure(pair: Pair, rounds: int, clock: Callable[[], float]) -> Row:
    own, peer, agree = [], [], []
    for number in range(rounds + 1):  # the first round warms up
        sides = [(pair.own, own), (pair.peer, peer)]
        drawn = {}
        for work, times in sides if number % 2 else sides[::-1]:  # what ran just before leaves caches as it does
            started = clock()
            drawn[work] = work()
            times.append(clock() - started)
        agree.append(agreement(drawn[pair.own], drawn[pair.peer]))
        tokens = sum(map(len, drawn[pair.own]))
        print(f"{pair.name}: round {number} of {rounds}", file=sys.stderr, flush=True)
    ratios = sorted(peer / own for own, peer in zip(own[1:], peer[1:], strict=True))
    return Row(
        pair.name,
        tokens / statistics.median(own[1:]),
        tokens / statistics.median(peer[1:]),
        statistics.median(ratios),
        ratios[0],
        ratios[-1],
        min(agree) if pair.same else None,
        pair.reach,
    )


def agreement(own: Rows, peer: Rows) -> float:
    """Share of the tokens before the first that differs, in all rows together."""
    same = sum(
        next((place for place, (a, b) in enumerate(zip(*rows, strict=True)) if a != b), len(rows[0]))
        for rows in zip(own, peer, strict=True)
    )
    return same / sum(map(len, own))


def table(rows: Sequence[Row]) -> None:
    print(f"{'':32} {'own':>8} {'peer':>8}   own / peer (least to most)   agree")
    for row in rows:
        spread = f"{row.ratio:.2f} ({row.least:.2f} to {row.most:.2f})"
        agree = "" if row.agree is None else f"{row.agree:.3f}"
        reach = "" if row.reach is None else f"{row.reach:g}x: {'holds' if row.ratio >= row.reach else 'MISSED'}"
        print(f"{row.name:32} {row.own:8.0f} {row.peer:8.0f}   {spread:26} {agree:>7}   {reach}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="timed ones (default: 5)")
    parser.add_argument("--only", metavar="TEXT", default="", help="pairs whose name holds this")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    found, engines = pairs(dtype, torch.Generator().manual_seed(0))
    rows = [measure(pair, arguments.rounds, clock) for pair in found if arguments.only in pair.name]
    for engine in engines:
        engine.close()
    print(f"{arguments.precision}, {arguments.threads} thread(s), new tokens a second")
    table(rows)
    if arguments.json:
        result = {
            "environment": environment("torch", "transformers")
            | {"threads": arguments.threads, "precision": arguments.precision},
            "rows": [asdict(row) for row in rows],
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
