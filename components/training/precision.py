"""fp32, or autocast over fp32 weights in bf16 or fp16.

bf16 has fp32's range and needs no loss scaling (Kalamkar et al., arXiv:1905.12322). fp16 has not: the loss is
multiplied by a scale that halves when a gradient overflows, whose step is then skipped, and doubles after 2,000 steps
in which none did (Micikevicius et al., arXiv:1710.03740, section 3.2). On a CPU fp16 is right but far slower than fp32.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.amp.grad_scaler import GradScaler

from components.training.config import Precision

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SMALLEST_SCALE = 1.0  # below it gradients overflow that are larger than any sound one


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """What the loss is computed under, forward pass only; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=TYPES[precision])


def loss_scaler(precision: Precision, device: torch.device) -> GradScaler | None:
    """fp16's dynamic loss scale, 65,536 at first; None where none is needed."""
    return GradScaler(device.type) if precision == "fp16" else None
