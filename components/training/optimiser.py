"""AdamW (Loshchilov & Hutter, arXiv:1711.05101), fused; or Muon for the matrices inside blocks and AdamW for the rest.

Weight decay is on matrices only. Norms, biases, scales and temperatures (at most one dimension), embeddings of
positions and class tokens are not decayed: zero means nothing there. Token embeddings are decayed.
"""

from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from components.training.config import FitConfig
from components.training.layers import in_block, layer_scales
from components.training.muon import Muon

UNDECAYED = ("position", "pos_embed", "cls_token", "class_embedding")  # parts of names: own modules, timm, open_clip


class Optimiser:
    """One or two of torch's optimisers that step as one. A group's learning rate is the given one times its `scale`."""

    def __init__(self, parts: list[Optimizer]) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all parts; GradScaler reads them here."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def set_rate(self, learning_rate: float) -> None:
        for group in self.param_groups:
            group["lr"] = learning_rate * group["scale"]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        """All that changes from step to step, named part.parameter.kind."""
        return {
            f"{number}.{index}.{kind}": value
            for number, part in enumerate(self.parts)
            for index, values in part.state_dict()["state"].items()
            for kind, value in values.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """What `tensors` gave, copied in."""
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.parts]
        for name, tensor in tensors.items():
            number, index, kind = name.split(".")
            states[int(number)].setdefault(int(index), {})[kind] = tensor.clone()  # aligned as torch does it
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(part.state_dict() | {"state": state})


def build(model: nn.Module, config: FitConfig) -> Optimiser:
    """Optimiser over the trainable parameters; the loop sets the learning rate.

    ValueError: there is no matrix for muon, or no block for layer_decay.
    """
    scales = layer_scales(model, config.layer_decay)
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    chosen = hidden_matrices(model) if config.optimiser == "muon" else set()
    plain = [(name, parameter) for name, parameter in trainable if name not in chosen]
    groups = groups_of([(name, p) for name, p in plain if decayed(name, p)], scales, config.weight_decay)
    groups += groups_of([(name, p) for name, p in plain if not decayed(name, p)], scales, 0.0)
    parts: list[Optimizer] = [AdamW(groups, lr=0.0, betas=config.betas, fused=True)] if groups else []
    if config.optimiser == "muon":
        groups = groups_of([(name, p) for name, p in trainable if name in chosen], scales, config.weight_decay)
        if not groups:
            raise ValueError(f"muon: {type(model).__name__} has no matrices to train inside blocks.<i>: set adamw")
        parts.append(Muon(groups, lr=0.0))
    return Optimiser(parts)


def groups_of(
    named: list[tuple[str, nn.Parameter]], scales: dict[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """A group for each factor of the learning rate."""
    factors = dict.fromkeys(scales[name] for name, _ in named)
    return [
        {"params": [p for name, p in named if scales[name] == scale], "weight_decay": weight_decay, "scale": scale}
        for scale in factors
    ]


def decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and not any(part in name for part in UNDECAYED)


def hidden_matrices(model: nn.Module) -> set[str]:
    """Names of what Muon is made for: matrices inside blocks that multiply tokens; no tables to look up in."""
    tables = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
        for own, _ in module.named_parameters()
    }
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim == 2 and in_block(name) and decayed(name, parameter) and name not in tables
    }
