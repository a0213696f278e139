"""GELU (Hendrycks & Gimpel 2016) that torch.compile leaves to torch's own kernel on a CPU.

Inductor (torch 2.11) writes its error function out and takes twice the kernel's time for it: 41 of 831 ms of a training
step of 6 x 384 on 2,048 tokens. Elsewhere, and as written, it is torch's function.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu(features: Tensor) -> Tensor:
    traced = torch.compiler.is_compiling() and not torch.compiler.is_exporting()  # ONNX knows no operations of ours
    if traced and features.device.type == "cpu":
        return _gelu(features)
    return F.gelu(features)


@torch.library.custom_op("tsumugi::gelu", mutates_args=(), device_types="cpu")
def _gelu(features: Tensor) -> Tensor:
    return F.gelu(features)


@torch.library.custom_op("tsumugi::gelu_backward", mutates_args=(), device_types="cpu")
def _gelu_backward(cotangent: Tensor, features: Tensor) -> Tensor:
    return torch.ops.aten.gelu_backward(cotangent, features)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:  # noqa: ARG001  # torch calls it by these names
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, cotangent: Tensor) -> Tensor:
    return _gelu_backward(cotangent, *ctx.saved_tensors)


_gelu.register_fake(F.gelu)
_gelu_backward.register_fake(torch.ops.aten.gelu_backward)
_gelu.register_autograd(_differentiate, setup_context=_keep)
