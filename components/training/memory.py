"""Memory of a training step: what a pass allocates, and what the process or the GPU really took at its peak.

`Ledger` follows every storage that operations make until it is freed, and counts the FLOPs of products and attention by
torch's formulas. Scratch space inside kernels, and what an allocator keeps of freed memory, are in no ledger. On a CPU
the latter is much: glibc keeps freed blocks of up to 32 MB, and a step takes a quarter to a half more than it uses.
With the variable MALLOC_MMAP_THRESHOLD_=65536 both agree within a few percent, at about a tenth more time.
"""

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

PROCESS = Path("/proc/self")

_aten = torch.ops.aten
FLOPS = {
    **flop_registry,  # lacks products added in place, and the CPU's attention
    _aten.addmm_: flop_registry[_aten.addmm],
    _aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a training step."""

    weights: int  # and buffers
    gradients: int
    optimiser: int  # its state, averaged weights and the best ones
    activations: int  # all else that forward and backward pass hold together at the peak, the batch included

    @property
    def peak(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.activations

    def __str__(self) -> str:
        parts = ("weights", "gradients", "optimiser", "activations")
        return f"{size(self.peak)} ({', '.join(f'{name} {size(getattr(self, name))}' for name in parts)})"


class Ledger(TorchDispatchMode):
    """Bytes of the storages made inside and still alive, their largest sum, and FLOPs."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._seen: set[int] = set()  # storages by the address of their implementation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := FLOPS.get(func._overloadpacket):
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        old = {_identity(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and _identity(leaf) not in old:
                self._follow(leaf)
        return out

    def _follow(self, tensor: Tensor) -> None:
        key = _identity(tensor)
        if key in self._seen:
            return
        storage = tensor.untyped_storage()
        self._seen.add(key)
        self.live += (bytes_ := storage.nbytes())
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, bytes_)

    def _drop(self, key: int, bytes_: int) -> None:
        self._seen.discard(key)
        self.live -= bytes_


def _identity(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class Gauge:
    """Peak memory in bytes that training adds to what there was when the gauge was made.

    On CUDA what tensors take; on a CPU resident memory without mapped files (libraries load at their first use).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)
        else:
            (PROCESS / "clear_refs").write_text("5")  # the peak of resident memory begins anew (man 5 proc)
            self.before = _status("VmRSS") - _status("RssFile")

    def peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return _status("VmHWM") - _status("RssFile") - self.before


def _status(field: str) -> int:
    line = next(line for line in (PROCESS / "status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def size(bytes_: int) -> str:
    """0.3 MB, 12 MB or 1.2 GB."""
    if bytes_ >= 1e9:
        return f"{bytes_ / 1e9:.1f} GB"
    return f"{bytes_ / 1e6:.0f} MB" if bytes_ >= 1e6 else f"{bytes_ / 1e6:.1f} MB"
