"""Decoding with a cache against transformers' `generate`, and the variants of an encoder, side by side in one run.

    python -m benchmarks.inference decoder [--batch 1 16] [--precision fp32] [--json FILE]   about 6 minutes
    python -m benchmarks.inference encoder [--batch 1 16] [--compile] [--json FILE]          about 2 minutes

decoder: 6 x 384 in Llama's parts, vocabulary 8192, 128 tokens after a prompt of 64, drawn greedily; both sides hold the
same weights, and the tokens of the first round are compared. To reach: 1.7x `generate` at batch 1 and 1.4x at 16 in
the same precision, 3x at batch 1 with weights in int8.
encoder: a text encoder of 6 x 384 on rows of 128 tokens, by variant (components/inference/variants.py), against plain.

Every peer answers once a round, in turns; the ratio is the median over rounds of paired times, in CPU seconds of this
process with one thread (which hold on a busy machine), by the clock otherwise.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.environment import environment
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig, SamplingConfig
from components.decoders.sampling import generate
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.inference import export, variants
from components.interop import llama
from components.training.precision import TYPES
from components.transformer.config import TransformerConfig

WIDTH, DEPTH, HEADS, VOCABULARY = 384, 6, 6, 8192
PROMPT, NEW, LENGTH = 64, 128, 128  # tokens; LENGTH: of the encoder's rows
PLAIN, INT8 = "tsumugi", "tsumugi, int8 weights"
REACH = {(PLAIN, 1): 1.7, (PLAIN, 16): 1.4, (INT8, 1): 3.0}  # times transformers' tokens a second, by batch
Answer = Callable[[], Tensor]


def decoders(batch: int, precision: str) -> dict[str, Answer]:
    """transformers first. Each gives the tokens that it drew."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = TransformerConfig(
        WIDTH, DEPTH, HEADS, norm="rms", activation="swiglu", expansion=8 / 3, bias="none", norm_epsilon=1e-6
    )
    own = CausalDecoder(DecoderConfig(shape, PROMPT + NEW), VOCABULARY)
    peer: Any = LlamaForCausalLM(LlamaConfig(**llama.describe(own)))
    peer.load_state_dict(llama.tensors(own), strict=False)  # what is tied has one name there
    own, peer = own.to(TYPES[precision]).eval(), peer.to(TYPES[precision]).eval()
    int8 = variants.apply(own, "int8_weights", Path())
    prompts, greedy = torch.randint(VOCABULARY, (batch, PROMPT)), SamplingConfig(temperature=0.0)
    settings: dict[str, Any] = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    peer.generation_config.eos_token_id = None

    def ours(model: Any) -> Answer:
        return lambda: generate(model, prompts, NEW, greedy, torch.Generator())

    def theirs() -> Tensor:
        mask = torch.ones_like(prompts)
        return peer.generate(prompts, attention_mask=mask, **settings)[:, PROMPT:]

    return {"transformers generate": theirs, PLAIN: ours(own), INT8: ours(int8)}


def encoders(batch: int, folder: Path, compile: bool) -> dict[str, Answer]:
    """Plain first, then each variant that this machine runs."""
    shape = TransformerConfig(WIDTH, DEPTH, HEADS)
    model = TextEncoder(TextConfig(shape, LENGTH), VOCABULARY).eval()
    if not variants.lacks("onnx"):
        export.export(model, folder)
    ids, mask = torch.randint(VOCABULARY, (batch, LENGTH)), torch.ones(batch, LENGTH, dtype=torch.bool)
    mask[-1, LENGTH // 2 :] = False

    def answer(variant: str) -> Answer:
        made = variants.apply(model, variant, folder)

        def run() -> Tensor:
            with torch.no_grad():
                encoded = made(ids, mask)
            return encoded[1] if isinstance(encoded, tuple) else encoded.pooled

        return run

    names = [name for name in variants.VARIANTS if not variants.lacks(name) and name != "compiled"]
    answers = {name: answer(name) for name in names}
    if compile:
        torch.manual_seed(0)
        answers["compiled"] = answer("compiled")  # last: it compiles the plain model's own blocks
    return answers


def seconds(answers: dict[str, Answer], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Times of each, round by round, after one that warms it up; who goes first changes each round."""
    times: dict[str, list[float]] = {name: [] for name in answers}
    for number in range(rounds + 1):
        sides = list(answers.items())
        turn = number % len(sides)  # what ran just before leaves caches and free memory as it does
        for name, answer in sides[turn:] + sides[:turn]:
            started = clock()
            answer()
            if number:
                times[name].append(clock() - started)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return times


def rows(times: dict[str, list[float]], batch: int, items: int) -> list[dict[str, Any]]:
    """A row a peer: items a second (median), and its speed over the first one's, with the least and most of all."""
    first = next(iter(times.values()))
    table = []
    for name, each in times.items():
        ratios = sorted(theirs / own for theirs, own in zip(first, each, strict=True))
        table.append(
            {
                "peer": name,
                "batch": batch,
                "items_per_second": round(items / statistics.median(each), 1),
                "times_the_first": round(statistics.median(ratios), 3),
                "least": round(ratios[0], 3),
                "most": round(ratios[-1], 3),
            }
        )
    return table


def agreement(answers: dict[str, Answer]) -> dict[str, float]:
    """Share of each one's tokens that are the first one's: rounding ends it where two tokens are nearly as likely."""
    first, *others = [answer() for answer in answers.values()]
    return {name: (each == first).float().mean().item() for name, each in zip(list(answers)[1:], others, strict=True)}


def measure(arguments: argparse.Namespace, batch: int, folder: Path) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    if arguments.work == "encoder":
        table = rows(
            seconds(encoders(batch, folder, arguments.compile), arguments.rounds, clock), batch, batch * LENGTH
        )
    else:
        answers = decoders(batch, arguments.precision)
        agreed = agreement(answers)
        table = rows(seconds(answers, arguments.rounds, clock), batch, batch * NEW)
        for row in table[1:]:
            row["same_tokens"] = round(agreed[row["peer"]], 3)
    for row in table:
        print(line(row, arguments.work))
    return table


def line(row: dict[str, Any], work: str) -> str:
    spread = f"{row['times_the_first']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
    same = f"   {row['same_tokens']:.0%} of the tokens" if "same_tokens" in row else ""
    wanted = REACH.get((row["peer"], row["batch"])) if work == "decoder" else None
    verdict = f"   {'holds' if row['times_the_first'] >= wanted else 'MISSED'}: {wanted:g}x" if wanted else ""
    return (
        f"batch {row['batch']:3}  {row['peer']:22} {row['items_per_second']:>9,.0f} tokens/s   {spread}{same}{verdict}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", choices=["decoder", "encoder"])
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1, 16], metavar="N", help="rows at once (default: 1 16)"
    )
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the decoders")
    parser.add_argument("--compile", action="store_true", help="the variant compiled, too (a minute)")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=7, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        table = [row for batch in arguments.batch for row in measure(arguments, batch, Path(folder))]
    if arguments.json:
        packages = ("torch", "transformers") if arguments.work == "decoder" else ("torch", "onnxruntime")
        how = {name: getattr(arguments, name) for name in ("work", "precision", "threads", "rounds")}
        result = {"environment": environment(*packages)} | how | {"rows": table}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
