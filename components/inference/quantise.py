"""Linear layers with weights in int8, as drop-in parts of a copy of a trained model, on a CPU.

Each output channel has its own scale: W = scale round(W / scale), levels -127 to 127 (Jacob et al. 2018, "Quantization
and training of neural networks for efficient integer-arithmetic-only inference", section 2.1, symmetric). `Int8Weights`
leaves activations as they are: few rows read half of bf16's bytes, which is what decoding waits for. `Int8Dynamic`
rounds each row of activations, too, and multiplies integers by oneDNN's kernel of the quantised engine (three times as
fast at 1024 rows as torch._int_mm and the same scaling after it). A row has its own scale there, where torch's own
dynamic layer takes one for all: an answer does not depend on the requests that share its batch.
A decoder whose output matrix is its embedding's keeps one int8 table for both.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn

from components.decoders.causal import CausalDecoder

LEVELS = 127
TINY = 1e-30  # scale of zeros
VECTOR = 16  # the kernel that reads int8 takes inputs by so many, and gives wrong sums or crashes for a remainder
FEW = 32  # rows up to which it is faster than a product with weights made floats again


class Int8Layer(nn.Module):
    """x W^T + b with W in int8. `weight`: [outputs, inputs]; the bias stays as it is."""

    def __init__(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None = None) -> None:
        super().__init__()
        levels, scales = rounded(weight.detach())
        # parameters: they stay tied when moved, and the first one of a block tells the type of its cache
        self.scales = nn.Parameter(scales.squeeze(1).to(weight.dtype), requires_grad=False)
        self.weight = nn.Parameter(levels, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, features: Float[Tensor, "*shape inputs"]) -> Float[Tensor, "*shape outputs"]:
        outputs = self.multiply(features.reshape(-1, features.shape[-1]))
        if self.bias is not None:
            outputs += self.bias
        return outputs.view(*features.shape[:-1], -1)

    def multiply(self, rows: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        raise NotImplementedError


class Int8Weights(Int8Layer):
    """|error| of an output is at most sum_k |x_k| scale / 2, and for up to FEW rows what bf16 rounds of x and of it:
    torch's kernel that reads int8 is quick for bf16 alone (ten times slower for fp32 than a product of floats)."""

    ones: Tensor
    few: int  # rows up to which the kernel is taken

    def __init__(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None = None) -> None:
        super().__init__(weight, bias)
        self.register_buffer("ones", torch.ones(len(weight), dtype=torch.bfloat16), persistent=False)
        self.few = 0 if weight.shape[1] % VECTOR else FEW

    def multiply(self, rows: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        if len(rows) <= self.few:  # scaled afterwards, so that scales stay as fine as they are
            multiply = torch._weight_int8pack_mm  # pyright: ignore[reportPrivateImportUsage]
            return multiply(rows.bfloat16().contiguous(), self.weight, self.ones) * self.scales
        return F.linear(rows, self.weight.to(rows.dtype)).mul_(self.scales)


class Int8Dynamic(Int8Layer):
    """With s the row's scale, |error| is at most sum_k (|x_k| scale + |W_k| s) / 2 + inputs s scale / 4."""

    packed: Tensor | None = None  # the weights as the kernel wants them, made at the first call
    zeros: Tensor

    def __init__(self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None = None) -> None:
        super().__init__(weight, bias)
        self.register_buffer("zeros", torch.zeros(len(weight), dtype=torch.long), persistent=False)

    def multiply(self, rows: Float[Tensor, "n inputs"]) -> Float[Tensor, "n outputs"]:
        if self.packed is None:
            self.packed = torch.ops.onednn.qlinear_prepack(self.weight.data, None)
        levels, steps = rounded(rows)
        whole = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, 0, self.packed, self.scales.float(), self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return whole.mul_(steps).to(rows.dtype)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"packed": None}  # it cannot be copied

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.packed = None


class Int8Embedding(nn.Module):
    """Rows of the table that is also the output layer's."""

    def __init__(self, table: Int8Layer) -> None:
        super().__init__()
        self.scales, self.weight = table.scales, table.weight

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        return self.weight[ids] * self.scales[ids].unsqueeze(-1)


def rounded(rows: Float[Tensor, "n m"]) -> tuple[Int8[Tensor, "n m"], Float[Tensor, "n 1"]]:
    """Each row in whole steps of its own, at most LEVELS of them, and the fp32 steps."""
    rows = rows.float()
    steps = (rows.abs().amax(1, keepdim=True) / LEVELS).clamp_(min=TINY)
    return (rows / steps).round_().to(torch.int8), steps


def quantise(model: nn.Module, layer: type[Int8Layer]) -> nn.Module:
    """A copy whose linear layers are of this kind; the model itself stays, and its large weights are never copied.

    Subclasses of nn.Linear are left: others read their weights themselves.
    """
    instead: dict[int, Any] = {
        id(part): layer(part.weight, part.bias) for part in model.modules() if type(part) is nn.Linear
    }
    if not isinstance(model, CausalDecoder):
        return copy.deepcopy(model, instead)  # what stands in the memo counts as copied already
    head = layer(model.output) if model.head is None else instead[id(model.head)]
    if model.head is None:
        instead[id(model.embedding)] = Int8Embedding(head)
    decoder: Any = copy.deepcopy(model, instead)
    decoder.head = head
    return decoder
