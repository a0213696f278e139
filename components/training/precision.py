"""fp32, or bf16 autocast over fp32 weights (Kalamkar et al., arXiv:1905.12322): fp32's range, so no loss scaling."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch


def autocast(precision: Literal["fp32", "bf16"], device: torch.device) -> AbstractContextManager:
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)
