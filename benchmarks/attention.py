"""The kinds of attention, forward and backward: time, its ratio to SDPA, and peak memory above the inputs, by length.

    python -m benchmarks.attention [--lengths 512 ...] [--threads N] [--device cuda] [--json FILE]   about 7 minutes

Batch 1, 4 heads of 64, fp32, each kind and length in a fresh process (components/evaluation/measure.py), the least of
some rounds; in CPU seconds with one thread, which hold on a busy machine, and by the clock otherwise.

To reach at 8,192 tokens on one thread of a CPU: local, block-sparse, Linformer and Performer 5x faster than SDPA
without a mask, within 2x of its memory and under a tenth of an explicit softmax's, and memory that grows with the
length alone. The explicit softmax is left out where its matrices do not fit the memory that is free.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.environment import environment
from components.attention.config import Attention, BlockSparse, Linformer, Local, Performer
from components.attention.multi_head import core
from components.evaluation.measure import in_fresh_process, peak_memory, seconds
from components.evaluation.verdicts import slope

HEADS, FEATURES, WARM = 4, 64, 128  # WARM: tokens of a first call, in which libraries set themselves up
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
MATRICES = 5  # of scores, that the explicit softmax holds at once at the most
REACH = {"faster": 5.0, "memory": 2.0, "share": 0.1}  # against SDPA, SDPA, explicit softmax
GROWTH, FROM = 1.2, 2048  # exponent of memory in length up to which it is linear, from as many tokens on
HELD = tuple(f"{name}{causal}" for name in ("local", "block-sparse", "performer") for causal in ("", ", causal"))
HELD += ("linformer",)  # which cannot be causal
Core = Callable[[Tensor, Tensor, Tensor], Tensor]


def explicit(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return torch.softmax(queries @ keys.mT / queries.shape[3] ** 0.5, dim=3) @ values


def kinds(length: int) -> dict[str, Callable[[], Core]]:
    """Each kind at the figures that its configuration starts with; Linformer's context is the length."""

    def made(kind: Attention, causal: bool = False) -> Callable[[], Core]:
        return lambda: core(kind, causal=causal, context=length, features=FEATURES, dropout=0.0)

    return {
        "SDPA": lambda: F.scaled_dot_product_attention,
        "explicit softmax": lambda: explicit,
        "SDPA, causal": lambda: lambda *parts: F.scaled_dot_product_attention(*parts, is_causal=True),
        "local": made(Local()),
        "local, causal": made(Local(), causal=True),
        "block-sparse": made(BlockSparse()),
        "block-sparse, causal": made(BlockSparse(), causal=True),
        "linformer": made(Linformer()),
        "performer": made(Performer()),
        "performer, causal": made(Performer(), causal=True),
    }


@dataclass(frozen=True)
class Row:
    kind: str
    length: int  # tokens
    seconds: float  # forward and backward
    bytes: int  # at the peak, above the inputs


def measure(kind: str, length: int, threads: int, device: str, repeat: int) -> Row:
    """Runs in a process of its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    attend = kinds(length)[kind]()
    if isinstance(attend, torch.nn.Module):
        attend.to(device)

    def step(tokens: int) -> Callable[[], object]:
        # laid out as a projection gives them: [b, n, h, c] with heads moved to the front
        room = [torch.randn(1, tokens, HEADS, FEATURES, device=device).transpose(1, 2) for _ in range(4)]
        *sources, cotangent = (part.requires_grad_(which < 3) for which, part in enumerate(room))
        return lambda: torch.autograd.grad(attend(*sources), sources, cotangent)

    step(min(WARM, length))()
    work = step(length)
    took = seconds(work, repeat, time.process_time if device == "cpu" and threads == 1 else time.perf_counter)
    return Row(kind, length, took, peak_memory(work))


def fits(length: int, device: str) -> bool:
    """Whether an explicit softmax's matrices take less than half of the free memory."""
    if device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return MATRICES * HEADS * length**2 * 4 < free / 2


def table(rows: Iterable[Row]) -> list[Row]:
    """Print each row as it comes, SDPA and the explicit softmax of a length before the others of it."""
    print(f"{'tokens':>6}  {'kind':22} {'ms':>9} {'SDPA / it':>10} {'MiB':>9} {'it / SDPA':>10} {'it / explicit':>14}")
    by: dict[tuple[str, int], Row] = {}
    for row in rows:
        by[row.kind, row.length] = row
        peer, full = by["SDPA", row.length], by.get(("explicit softmax", row.length))
        share = f"{row.bytes / full.bytes:14.3f}" if full else f"{'-':>14}"
        print(
            f"{row.length:6}  {row.kind:22} {row.seconds * 1e3:9.1f} {peer.seconds / row.seconds:10.2f} "
            f"{row.bytes / 2**20:9.1f} {row.bytes / peer.bytes:10.2f} {share}",
            flush=True,
        )
    return list(by.values())


def verdicts(rows: list[Row], length: int = 8192) -> dict[str, bool]:
    """What is to be reached at `length`; nothing where it was not measured."""
    at = {row.kind: row for row in rows if row.length == length}
    found = {}
    for kind in HELD if at else ():
        row = at[kind]
        found[f"{kind}: {REACH['faster']:g}x faster"] = at["SDPA"].seconds / row.seconds >= REACH["faster"]
        found[f"{kind}: {REACH['memory']:g}x SDPA's memory"] = row.bytes <= REACH["memory"] * at["SDPA"].bytes
        if "explicit softmax" in at:
            share = row.bytes / at["explicit softmax"].bytes
            found[f"{kind}: {REACH['share']:g} of an explicit softmax's memory"] = share <= REACH["share"]
        grown = [each for each in rows if each.kind == kind and FROM <= each.length <= length]
        if len(grown) > 1:
            power = slope([each.length for each in grown], [each.bytes for each in grown])
            found[f"{kind}: memory grows with the length alone"] = power <= GROWTH
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="N", help="tokens")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of torch (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="rounds; the least counts (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    rows = table(
        in_fresh_process(measure, kind, length, arguments.threads, arguments.device, arguments.repeat)
        for length in arguments.lengths
        for kind in kinds(length)
        if kind != "explicit softmax" or fits(length, arguments.device)
    )
    for what, holds in verdicts(rows).items():
        print(f"{what}: {'holds' if holds else 'MISSED'}")
    if arguments.json:
        where = environment("torch") | {"threads": arguments.threads, "device": arguments.device}
        result = {"environment": where, "heads": HEADS, "features": FEATURES, "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
