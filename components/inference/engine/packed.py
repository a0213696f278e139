"""Linear layers for few rows on a CPU: weights laid out once as the kernels read them.

`F.linear` lays the whole matrix out anew in each call, which over a few rows takes as long as the product. These are
MKL's (fp32) and oneDNN's (bf16) packed products, by the operators that torch.compile's freezing uses
(torch/_inductor/fx_passes/mkldnn_fusion.py). Results differ from `F.linear` by rounding alone.
"""

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from components.decoders.causal import CausalDecoder


class MklLinear(nn.Module):
    """fp32. MKL packs for one number of rows; others are multiplied by W^T, which one row reads fastest as it lies."""

    def __init__(self, weight: Float[Tensor, "o d"], bias: Float[Tensor, " o"] | None, rows: int) -> None:
        super().__init__()
        self.weight, self.bias, self.rows = weight.detach().T.contiguous().T, bias, rows
        self.packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach(), rows) if rows > 1 else None

    def forward(self, tokens: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows o"]:
        if self.packed is None or tokens.numel() != self.rows * tokens.shape[-1]:
            return F.linear(tokens, self.weight, self.bias)
        return torch.ops.mkl._mkl_linear(tokens, self.packed, self.weight, self.bias, self.rows)


class OneDnnLinear(nn.Module):
    """bf16, for any number of rows; fastest for about `rows`."""

    def __init__(self, weight: Float[Tensor, "o d"], bias: Float[Tensor, " o"] | None, rows: int) -> None:
        super().__init__()
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows), bias

    def forward(self, tokens: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows o"]:
        return torch.ops.mkldnn._linear_pointwise(tokens, self.weight, self.bias, "none", [], "")


@torch.no_grad()
def packed(decoder: CausalDecoder, rows: int) -> CausalDecoder:
    """The decoder with packed linear layers and output matrix, for passes over `rows` tokens; it shares the rest.

    What is no plain linear layer (quantised ones) stays as it is, and so does a decoder of another precision or device.
    The decoder given is left alone; later changes to its weights do not reach the packed ones.
    """
    kind = _kind(decoder.output)
    if kind is None:
        return decoder
    shared = {id(each): each for each in (*decoder.parameters(), *decoder.buffers())}
    result = copy.deepcopy(decoder, shared)  # modules anew, tensors shared
    for parent in list(result.stack.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, kind(child.weight, child.bias, rows))
    if result.head is None or type(result.head) is nn.Linear:
        result.head = kind(result.output, None, rows)  # type: ignore[assignment]
    return result


def _kind(weight: Tensor) -> type[MklLinear] | type[OneDnnLinear] | None:
    if weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkl.is_available():
        return MklLinear
    if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return OneDnnLinear
    return None
