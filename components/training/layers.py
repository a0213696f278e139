"""Lower layers learn more slowly: learning rates that fall by a factor a block (ELECTRA, Clark et al. 2020,
arXiv:2003.10555, appendix B; as counted in BEiT, Bao et al. 2021, arXiv:2106.08254, `get_num_layer_for_vit`).

Blocks are found by their names, `....blocks.<i>.`; a model may have several stacks of them, each with its own depth.
What is registered before the blocks of its stack (stems, embeddings, positions) lies lowest, what comes after them
(last norms, heads) highest, at the full rate. So do scalars, as the temperature of two towers.
"""

import re

from torch import nn

BLOCK = re.compile(r"^((?:.*\.)?\w*blocks\.)(\d+)\.")


def in_block(name: str) -> bool:
    return BLOCK.match(name) is not None


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Factor of the learning rate for every parameter by name: 1 for all where decay is 1.

    ValueError: the model has no blocks, and decay is not 1.
    """
    named = list(model.named_parameters())
    blocks = [match for name, _ in named if (match := BLOCK.match(name))]
    if decay < 1 and not blocks:
        raise ValueError(
            f"layer_decay {decay:g}: {type(model).__name__} has no parameters named blocks.<i>: set layer_decay to 1"
        )
    depths = {match[1]: 0 for match in blocks}
    for match in blocks:
        depths[match[1]] = max(depths[match[1]], int(match[2]) + 1)
    begun: set[str] = set()  # stacks whose first block has come by
    scales = {}
    for name, parameter in named:
        if match := BLOCK.match(name):
            begun.add(match[1])
            scales[name] = decay ** (depths[match[1]] - int(match[2]))
        elif parameter.ndim and (below := _below(name, depths, begun)):
            scales[name] = decay ** (below + 1)
        else:
            scales[name] = 1.0
    return scales


def _below(name: str, depths: dict[str, int], begun: set[str]) -> int:
    """Blocks above a parameter outside them: those of the stack that shares most of its name; 0 once that has begun."""
    shared = {stack: _shared(name, stack) for stack in depths}
    nearest = [stack for stack in depths if shared[stack] == max(shared.values())]
    return 0 if begun & set(nearest) else max((depths[stack] for stack in nearest), default=0)


def _shared(name: str, stack: str) -> int:
    """Parts that two names have in common at their beginning."""
    pairs = list(zip(name.split("."), stack.split("."), strict=False))
    return next((index for index, (one, other) in enumerate(pairs) if one != other), len(pairs))
