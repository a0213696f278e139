"""What a machine's matrix products reach: the limit that a training step is compared with.

Measured, not looked up: data sheets name clocks that shared, throttled or partly vectorised machines do not keep.
"""

import time

import torch

BUDGET = 0.3  # seconds for all sizes together; the smallest is tried whatever it takes
SIZES = {"cpu": (256, 512, 1024, 1536), "cuda": (1024, 2048, 4096, 8192)}  # sides of square matrices
TRIALS = 3


def matmul_ceiling(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of the fastest of several square products, with the threads that torch computes with now."""
    best, began = 0.0, time.perf_counter()
    for size in SIZES.get(device.type, SIZES["cuda"]):
        left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        for _ in range(TRIALS + 1):  # the first warms up, and counts if it is the fastest
            best = max(best, 2 * size**3 / _seconds(left, right))
            if time.perf_counter() - began > BUDGET:
                return best
    return best


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    _wait(left.device)
    began = time.perf_counter()
    torch.mm(left, right)
    _wait(left.device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
