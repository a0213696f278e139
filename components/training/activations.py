"""Activations that the backward pass computes again instead of keeping (Chen et al. 2016, arXiv:1604.06174).

A model takes part by a string attribute `activations` on the modules that own its blocks, and calls each block through
`run_block`. "recompute" keeps a block's inputs alone; "selective" keeps also the outputs of matrix products and of
attention, which cost the most time for their memory, and computes the rest (norms, activation functions, dropout) again
(Korthikanti et al. 2022, arXiv:2205.05198, section 5). Neither changes a bit of the gradients: dropout draws the same
numbers again.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from components.training.config import Activations

Output = TypeVar("Output")

_aten = torch.ops.aten
SAVED = {  # operations of other rooms are added by these
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.convolution.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.higher_order.flex_attention,
}


def run_block(mode: Activations, block: Callable[..., Output], *arguments: Any) -> Output:
    """block(*arguments), with its activations kept or not. Only tensors that require gradients make a difference."""
    if mode == "keep" or not torch.is_grad_enabled():
        return block(*arguments)
    if mode == "recompute":
        return checkpoint(block, *arguments, use_reentrant=False)  # type: ignore[return-value]
    context = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(block, *arguments, use_reentrant=False, context_fn=context)  # type: ignore[return-value]


def _policy(_context: Any, operation: Any, *_arguments: Any, **_options: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in SAVED else CheckpointPolicy.PREFER_RECOMPUTE


def set_activations(model: nn.Module, mode: Activations) -> None:
    """Set the attribute `activations` of every module in `model` that has it.

    ValueError: `mode` asks for recomputation, and no module of the model can do it.
    """
    able = [module for module in model.modules() if isinstance(getattr(module, "activations", None), str)]
    if mode != "keep" and not able:
        raise ValueError(
            f"activations {mode}: no part of {type(model).__name__} can compute its activations again (none has an "
            "attribute `activations`): set activations to keep"
        )
    for module in able:
        module.activations = mode  # type: ignore[assignment]
