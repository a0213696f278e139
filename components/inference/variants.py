"""What a trained model may be served as, by name, and which of these to serve.

`plain` is fp32 as trained; `int8_weights` and `int8_dynamic` are quantise.py's; `bf16` halves the weights; `compiled`
runs each block by torch.compile; `onnx` runs the folder's graphs under onnxruntime. Weights in the folder are the plain
model's for all: a variant is made when it is loaded.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from components.decoders.causal import CausalDecoder
from components.encoders.speech import LogMel
from components.inference import export
from components.inference.quantise import Int8Dynamic, Int8Weights, quantise
from components.training.compiled import blocks, check_compiler
from components.transformer.stack import Stack

TOLERANCE = 0.01  # of quality, relative to the plain model's


def apply(model: nn.Module, variant: str, folder: Path) -> nn.Module:
    """The variant of a loaded model in eval mode, to be called in its place; `folder` is what it was loaded from.

    The model given may be a part of what comes back.

    Raises:
        ValueError: the variant is unknown, or this model has no such one; it names the remedy.
        RuntimeError: the machine or the installation lacks what the variant needs (see `lacks`).
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown: choose one of {', '.join(VARIANTS)}")
    if reason := lacks(variant):
        raise RuntimeError(reason)
    with torch.no_grad():
        return VARIANTS[variant](model, folder)


def lacks(variant: str) -> str:
    """What this machine lacks for a variant, in one line; empty where it runs."""
    if variant == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "bf16: this processor has no bf16 products (avx512_bf16 or amx), and without them it is far slower"
    if variant == "int8_dynamic" and not torch.cpu._is_vnni_supported():
        return "int8_dynamic: this processor has no products of int8 (AVX-512 VNNI), and without them sums overflow"
    try:
        if check := {"compiled": check_compiler, "onnx": export.check_packages}.get(variant):
            check()
    except RuntimeError as error:
        return str(error)
    return ""


def choose(rows: Sequence[Mapping[str, Any]], better: Literal["higher", "lower"], tolerance: float = TOLERANCE) -> str:
    """The variant to serve: the least `p50` of those whose `quality` is within `tolerance` of plain's, relative to it.

    rows: one each, with `variant`, `p50` (seconds) and `quality`. Of equally fast ones the first in VARIANTS is taken.
    ValueError without a row of plain, which always qualifies.
    """
    plain = next((row["quality"] for row in rows if row["variant"] == "plain"), None)
    if plain is None:
        raise ValueError("no row is of the variant plain: the others are judged by its quality")
    sign = 1 if better == "higher" else -1
    kept = [row for row in rows if sign * (row["quality"] - plain) >= -tolerance * abs(plain)]
    order = list(VARIANTS)
    return min(kept, key=lambda row: (row["p50"], order.index(row["variant"])))["variant"]


def _bf16(model: nn.Module, _: Path) -> nn.Module:
    """Features of sound stay fp32: their logarithms need it. What meets them or pictures takes them as bf16."""
    half = copy.deepcopy(model).bfloat16()
    inside = {part for stack in half.modules() if isinstance(stack, Stack) for part in stack.modules()}
    for part in half.modules():
        if isinstance(part, LogMel):
            part.float()
        elif isinstance(part, nn.Conv2d | nn.Linear) and part not in inside:
            part.register_forward_pre_hook(_as_weights)
    return half


def _as_weights(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    return inputs[0].bfloat16()


def _compiled(model: nn.Module, _: Path) -> nn.Module:
    for block in blocks(model):
        block.compile()
    return model


def _onnx(model: nn.Module, folder: Path) -> nn.Module:
    if isinstance(model, CausalDecoder):
        raise ValueError("onnx: a decoder's graph has no cache, and decodes each token anew: serve another variant")
    return export.load(folder, model)


VARIANTS: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
    "plain": lambda model, _: model,
    "int8_weights": lambda model, _: quantise(model, Int8Weights),
    "int8_dynamic": lambda model, _: quantise(model, Int8Dynamic),
    "bf16": _bf16,
    "compiled": _compiled,
    "onnx": _onnx,
}
