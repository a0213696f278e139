"""A training step against peers, same size and same data in one run: tokens a second, ratios, share of the ceiling.

    python -m benchmarks.training decoder [--precision bf16] [--compile] [--nanogpt PATH] [--json FILE]
    python -m benchmarks.training masked [--precision bf16] [--json FILE]

decoder: a causal decoder, 6 x 384 on 8 x 256 tokens by default, against transformers' Llama and GPT-2, x-transformers
and, where the path of a checkout is given, nanoGPT. To reach: 1.15x Llama and x-transformers, not behind nanoGPT, 62%
of what the machine's matrix products reach. `--size 350m` is 24 x 1024 on 8 x 2048 tokens, for a GPU.
masked: BERT's masked-token step on texts of 32 to 256 tokens, packed, against transformers with padding, counted in
useful tokens. To reach: 2x.

Every peer steps once a round with the fused AdamW of torch; the ratio is the median over rounds of paired times, in CPU
seconds of this process (in wall seconds on a GPU). On a machine without AVX-512 bf16 is slower than fp32: the default
precision is the faster one.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.environment import environment
from benchmarks.peers import SIZES, Peer, Size, decoder_peers, masked_peers
from components.training.ceiling import matmul_ceiling
from components.training.compiled import blocks
from components.training.precision import autocast


def seconds_a_step(peers: list[Peer], precision: str, device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Times of each peer's step, round by round, after one that warms it up (and compiles it)."""
    optimisers = [torch.optim.AdamW(peer.model.parameters(), 3e-4, fused=True) for peer in peers]
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(rounds + 1):
        turn = number % len(peers)  # what ran just before leaves caches and free memory as it does
        sides = list(zip(peers, optimisers, strict=True))
        for peer, optimiser in sides[turn:] + sides[:turn]:
            started = clock()
            with autocast(precision, device):  # type: ignore[arg-type]
                loss = peer.loss()
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                times[peer.name].append(clock() - started)
        print(f"round {number} of {rounds}", file=sys.stderr, flush=True)
    return times


def operations(model: nn.Module, size: Size) -> float:
    """Floating-point operations of a decoder's training step: 6 a weight of a matrix and token (Kaplan et al. 2020,
    section 2.1), and 6 n^2 d a block and row for causal attention."""
    weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "position" not in name)
    tokens = size.batch * size.length
    return 6.0 * weights * tokens + 6.0 * size.length**2 * size.width * size.depth * size.batch


def rows(times: dict[str, list[float]], tokens: int) -> list[dict[str, Any]]:
    """A row a peer: tokens a second (median), and ours over it, with the least and the most of all rounds."""
    own = next(iter(times.values()))
    table = []
    for name, each in times.items():
        ratios = sorted(theirs / ours for theirs, ours in zip(each, own, strict=True))
        table.append(
            {
                "peer": name,
                "tokens_per_second": round(tokens / statistics.median(each)),
                "own_over_it": round(statistics.median(ratios), 3),
                "least": round(ratios[0], 3),
                "most": round(ratios[-1], 3),
            }
        )
    return table


def compile_all(peers: list[Peer]) -> None:
    """Ours block by block, as the engine does; each peer as a whole, as its users do."""
    for block in blocks(peers[0].model):
        block.compile(dynamic=False)
    for peer in peers[1:]:
        peer.loss = torch.compile(peer.loss)


def show(work: str, how: str, ceiling: float, table: list[dict[str, Any]]) -> None:
    print(f"{work}, {how}, matrix products reach {ceiling / 1e9:.0f} GFLOP/s")
    for row in table:
        share = f"   {row['share_of_ceiling']:.0%} of the ceiling" if "share_of_ceiling" in row else ""
        spread = f"{row['own_over_it']:.2f} ({row['least']:.2f} to {row['most']:.2f})"
        print(f"{row['peer']:26} {row['tokens_per_second']:>9,} tokens a second   own / it {spread}{share}")


def arguments_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("work", choices=["decoder", "masked"])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="every peer by torch.compile (a minute each)")
    parser.add_argument("--nanogpt", type=Path, metavar="PATH", help="a checkout of nanoGPT")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def main() -> None:
    arguments = arguments_given()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    device, size = torch.device(arguments.device), SIZES[arguments.size]
    if arguments.work == "decoder":
        peers, tokens = decoder_peers(size, device, arguments.nanogpt), size.batch * size.length
    else:
        peers, tokens = masked_peers(size, device)
    if arguments.compile:
        compile_all(peers)
    dtype = torch.bfloat16 if arguments.precision == "bf16" else torch.float32
    before = matmul_ceiling(dtype, device)
    times = seconds_a_step(peers, arguments.precision, device, arguments.rounds)
    ceiling = max(before, matmul_ceiling(dtype, device))
    table = rows(times, tokens)
    if arguments.work == "decoder":
        for row, peer in zip(table, peers, strict=True):
            reached = operations(peer.model, size) / statistics.median(times[peer.name])
            row["share_of_ceiling"] = round(reached / ceiling, 3)
    how = f"{arguments.precision}, {'compiled' if arguments.compile else 'eager'}, {arguments.threads} thread(s)"
    show(arguments.work, how, ceiling, table)
    if arguments.json:
        result = {
            "environment": environment("torch", "transformers", "x-transformers"),
            "work": arguments.work,
            "how": how,
            "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
            "matmul_ceiling": round(ceiling),
            "peers": table,
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
