"""Blocks run by torch.compile while a model trains (Ansel et al. 2024).

What is compiled are the blocks, each as one graph, in place: no parameter changes its name, and a task may call any
method of its model. Equal blocks share one compilation, so that the cost does not grow with depth. Each shape of batch
gets its own code (never code for all shapes), since what a run has seen before must not decide its bits: a resumed run
equals an uninterrupted one. Validation runs as written, on shapes that training does not have.

Compiled code keeps the outputs of products and computes the rest again by itself (AOTAutograd's min-cut partitioner),
so that "selective" activations ask for nothing more there; "recompute" works around each compiled block.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from components.training.config import Activations, FitConfig

SHAPES = 64  # of batches and kinds of blocks, before torch gives up compiling


def blocks(model: nn.Module) -> list[nn.Module]:
    """Entries of every ModuleList named blocks (or resblocks, ...); the model itself where it has none."""
    lists = [
        module
        for name, module in model.named_modules()
        if name.endswith("blocks") and isinstance(module, nn.ModuleList)
    ]
    return [block for each in lists for block in each] or [model]


@contextmanager
def compiled(model: nn.Module, config: FitConfig) -> Iterator[None]:
    """The model's blocks are compiled inside, where the configuration asks for it.

    RuntimeError: there is no C++ compiler. torch._dynamo.exc.FailOnRecompileLimitHit: batches come in too many shapes.
    """
    if not config.compile:
        yield
        return
    check_compiler()
    chosen = blocks(model)
    # wrap_top_frame: blocks of torch's own classes would silently not be compiled
    with torch._dynamo.config.patch(recompile_limit=SHAPES, fail_on_recompile_limit_hit=True, wrap_top_frame=True):
        for block in chosen:
            block.compile(dynamic=False)
        try:
            yield
        finally:
            for block in chosen:
                block._compiled_call_impl = None


def eager(compile: bool) -> AbstractContextManager:
    """Compiled modules run as written inside."""
    return torch.compiler.set_stance("force_eager") if compile else nullcontext()


def check_compiler() -> None:
    """RuntimeError that names the remedy where torch.compile would find no C++ compiler, long before it needs one."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise RuntimeError(
            "compile: torch.compile needs a C++ compiler, and none is found: install g++, name one in the variable "
            "CXX, or set compile: false"
        ) from error


def activations_of(config: FitConfig) -> Activations:
    """What blocks themselves are told; compiled ones select what they keep."""
    return "keep" if config.compile and config.activations == "selective" else config.activations
