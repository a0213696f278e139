"""Rows as the study's stages write them, for parameters that are given, with figures that are known."""

from collections.abc import Iterator, Sequence
from typing import Any

Row = dict[str, Any]
COST = {"softmax": 2, "local": 1, "block_sparse": 1, "linformer": 1, "performer": 1.5, "explicit": 2}  # exponents
HERE = {"device": "cpu", "machine": "a quick processor, 1 thread, torch 2"}


def noise(rounds: int) -> list[tuple[int, float]]:
    """Rounds, and what each multiplies times with: 0.99, 1, 1.01 of three."""
    return [(number, 1 + (number - (rounds - 1) / 2) / 100) for number in range(rounds)]


def recall(models: Sequence[str], distances: Sequence[int], seeds: Sequence[int]) -> list[Row]:
    share = {"transformer": 0.98, "lstm": 0.3, "gru": 0.4}
    return [
        {
            "model": model,
            "distance": far,
            "seed": seed,
            "accuracy": share[model] if far >= 512 else 1.0,
            "chance": 0.125,
            "parameters": 70_000 + len(model),
        }
        for model in models
        for far in distances
        for seed in seeds
    ]


def recurrence(models: Sequence[str], lengths: Sequence[int], rounds: int) -> list[Row]:
    power = {"transformer": 1.6, "lstm": 1.0, "gru": 1.0}
    return [
        {"model": model, "length": length, "round": number, "seconds": more * length ** power[model] / 1e5} | HERE
        for model in models
        for length in lengths
        for number, more in noise(rounds)
    ]


def gradients(depth: int, seeds: Sequence[int]) -> list[Row]:
    drift = {"both": 1.0, "residual": 3.0, "norm": 1.0, "neither": 0.2}
    deep = [
        {"table": "depth", "variant": name, "block": block, "seed": seed}
        | {"norm": each ** (depth - 1 - block) * (1 + seed / 100)}
        for name, each in drift.items()
        for block in range(depth)
        for seed in seeds
    ]
    far = {"table": "distance", "model": "lstm", "distance": 2, "norm": 0.1, "parameters": 12_345}
    return deep + [far | {"seed": seed} for seed in seeds]


def costs(
    kinds: Sequence[str],
    lengths: Sequence[int],
    explicit: int,
    rounds: int,
    slower: float = 1.0,
    larger: float = 50.0,
    device: str = "cpu",
) -> list[Row]:
    """slower, larger: times that the explicit softmax takes longer, and holds more, than the flash kernel."""

    def by_kind() -> Iterator[Row]:
        for length in lengths:
            for kind in (*kinds, *["explicit"] * (length <= explicit)):
                seconds = (length / 512) ** COST[kind] * {"softmax": 1.0, "explicit": slower}.get(kind, 1 / 3)
                held = length * (larger if kind == "explicit" else 1)
                for number, more in noise(rounds):
                    row = {"table": "length", "attention": kind, "length": length, "round": number}
                    yield row | {"seconds": more * seconds, "peak_bytes": held}

    rows = list(by_kind())
    for number, more in noise(rounds):
        each = {"attention": "softmax", "round": number}
        rows += [each | {"table": "width", "width": 64 * h, "seconds": more * h / 100} for h in (1, 2, 4)]
        rows += [each | {"table": "heads", "heads": h, "seconds": more * (1 + h / 50)} for h in (1, 2, 4)]
    return [row | HERE | {"device": device} for row in rows]


def options(speed: Sequence[str], loss: Sequence[str], rounds: int, seeds: Sequence[int]) -> list[Row]:
    time = {"bf16": 0.4, "recompute": 1.3, "selective": 0.9}
    memory = {"bf16": 60, "recompute": 40, "selective": 70}
    more = {"bf16": 0.001, "fp16": -0.001, "accumulation": 0.3}
    speeds = [
        {"table": "speed", "option": option, "round": number, "seconds": each * time.get(option, 1.0)}
        | {"peak_bytes": memory.get(option, 100)}
        for option in ("none", *speed)
        for number, each in noise(rounds)
    ]
    losses = [
        {"table": "loss", "option": option, "seed": s, "loss": 2 + s / 10 + more.get(option, 0) * (1 + s / 50)}
        for option in ("none", *loss)
        for s in seeds
    ]
    return [row | HERE for row in speeds + losses]
