"""Recomputed activations: the same bits of gradients with less kept, dropout included."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from components.training.activations import run_block, set_activations
from components.training.config import Activations

MODES: tuple[Activations, ...] = ("keep", "selective", "recompute")


class Block(nn.Module):
    """Attention and a feed-forward, with dropout in both and an optional second argument."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.3)
        self.mix, self.widen, self.narrow = (
            nn.Linear(width, width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )

    def forward(self, tokens: Tensor, scale: Tensor | None) -> Tensor:
        inner = self.mix(self.norm(tokens)).unsqueeze(1)
        attended = scaled_dot_product_attention(inner, inner, inner, is_causal=True).squeeze(1)
        tokens = tokens + self.dropout(attended if scale is None else attended * scale)
        return tokens + self.dropout(self.narrow(nn.functional.gelu(self.widen(tokens))))


class Blocks(nn.Module):
    def __init__(self, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.activations: Activations = "keep"
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, tokens: Tensor, scale: Tensor | None = None) -> Tensor:
        for block in self.blocks:
            tokens = run_block(self.activations, block, tokens, scale)
        return tokens


def gradients(mode: Activations, dtype: torch.dtype | None = None, scale: Tensor | None = None) -> list[Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), Blocks())
    set_activations(model, mode)
    tokens = torch.randn(4, 16, 8)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        hidden = model[0](tokens)
        loss = model[1](hidden, scale).float().square().mean()
    loss.backward()
    grads = [p.grad for p in model.parameters()]
    return [loss.detach(), torch.rand(1), *grads]  # type: ignore[list-item]  # all have one


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_gradients_and_generator_are_the_same_bits(mode: Activations, dtype: torch.dtype | None) -> None:
    expected = gradients("keep", dtype)
    assert all(torch.equal(own, value) for own, value in zip(gradients(mode, dtype), expected, strict=True))


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_tensor_beside_the_tokens_gets_its_gradient(mode: Activations) -> None:
    found: dict[str, Any] = {}
    for each in ("keep", mode):
        scale = torch.full((32,), 0.5, requires_grad=True)
        gradients(each, scale=scale)
        found[each] = scale.grad
    assert torch.equal(found["keep"], found[mode])


def kept_bytes(mode: Activations) -> tuple[int, set[str]]:
    """Bytes that the graph of a forward pass holds, and the products done again by the backward pass."""
    torch.manual_seed(0)
    model = Blocks(width=64, depth=2)
    set_activations(model, mode)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    again: set[str] = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            again.add(str(function))
            return function(*arguments, **(options or {}))

    tokens = torch.randn(8, 32, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(tokens).square().mean()
    with Watch():
        loss.backward()
    return sum(kept.values()), again


def test_less_is_kept_and_what_is_kept_is_not_done_again() -> None:
    found = {mode: kept_bytes(mode) for mode in MODES}
    attention, gelu = "aten._scaled_dot_product_flash_attention_for_cpu.default", "aten.gelu.default"
    assert not {attention, gelu} & found["keep"][1]
    assert gelu in found["selective"][1] and attention not in found["selective"][1]
    assert {attention, gelu} <= found["recompute"][1]
    assert found["recompute"][0] < found["keep"][0] / 4


def test_nothing_is_recomputed_where_no_gradient_is_asked_for() -> None:
    model = Blocks().eval()
    tokens = torch.randn(2, 4, 32)
    with torch.no_grad():
        expected = model(tokens)
        set_activations(model, "recompute")
        assert torch.equal(model(tokens), expected)


def test_the_mode_reaches_every_part_and_a_model_without_parts_is_refused() -> None:
    model = nn.ModuleDict({"a": Blocks(), "b": nn.Sequential(Blocks())})
    set_activations(model, "selective")
    assert model["a"].activations == model["b"][0].activations == "selective"
    set_activations(nn.Linear(1, 1), "keep")
    with pytest.raises(ValueError, match="^activations recompute: no part of Linear .*set activations to keep$"):
        set_activations(nn.Linear(1, 1), "recompute")
