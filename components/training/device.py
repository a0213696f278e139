"""Batches to the device, the same bits there each time, and randomness that is a function of (seed, position)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from typing import Any

import torch
import torch.utils.deterministic as debug
from torch import Tensor, nn


def device_of(model: nn.Module) -> torch.device:
    """Where its parameters lie."""
    return next(model.parameters()).device


def move(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`; tuples, lists, dicts and dataclasses are gone through."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: move(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(move(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(move(value, device) for value in batch)
    if is_dataclass(batch):
        return type(batch)(**{field.name: move(getattr(batch, field.name), device) for field in fields(batch)})
    return batch


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels inside. An operation that has none on this device (CTC on CUDA) warns and names itself."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS at its first use
    before = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True, warn_only=True)
    debug.fill_uninitialized_memory = False  # pyright: ignore  # would write every new tensor twice
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def reseed(device: torch.device, *position: object) -> None:
    """Make torch's default generators a function of `position`: no generator state has to be saved, and nothing that
    drew from them before (a validation, a loader that starts its workers) can change what follows."""
    seed = int.from_bytes(blake2b(repr(position).encode(), digest_size=8).digest(), "little")
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
