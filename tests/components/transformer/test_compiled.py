"""Blocks as torch.compile takes them: the gradients of every parameter are those of the blocks as written."""

import copy
from collections.abc import Iterator

import jaxtyping
import pytest
import torch

from components.attention.config import Attention, BlockSparse, Linformer, Local, Performer, Softmax
from components.training.compiled import blocks
from components.transformer import gelu
from components.transformer.config import TransformerConfig
from components.transformer.stack import Stack

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, on its way through Dynamo
SHAPE = {"width": 32, "depth": 1, "heads": 4, "key_value_heads": 2}
KINDS: list[Attention] = [Softmax(), Local(window=4), BlockSparse(block=4, window=1, globals=1, random=1), Performer()]


@pytest.fixture(autouse=True)
def _untyped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its wrappers are not for tracing
    yield
    torch._dynamo.reset()


def gradients(stack: Stack, tokens: torch.Tensor, **given: object) -> dict[str, torch.Tensor]:
    (stack(tokens, **given) ** 2).sum().backward()  # pyright: ignore[reportArgumentType]
    return {name: p.grad for name, p in stack.named_parameters() if p.grad is not None}


def hold_equal(stack: Stack, tokens: torch.Tensor, *, rtol: float = 1e-4, atol: float = 1e-5, **given: object) -> None:
    other = copy.deepcopy(stack)
    for block in blocks(other):
        block.compile(dynamic=False, backend="aot_eager")  # what is tested is what is traced, not the machine's code
    found, expected = gradients(other, tokens, **given), gradients(stack, tokens, **given)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(
            found[name], gradient, rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


def built(causal: bool = True, **shape: object) -> Stack:
    torch.manual_seed(0)
    stack = Stack(TransformerConfig(**(SHAPE | shape)), context=24, scale=1.0, causal=causal)
    if shape.get("positions") == "relative":
        torch.nn.init.normal_(stack.positions.table.weight)
    return stack


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_each_kind_of_attention(kind: Attention) -> None:
    hold_equal(built(attention=kind), torch.randn(2, 20, 32))


def test_linformer() -> None:
    hold_equal(built(causal=False, attention=Linformer(rank=6)), torch.randn(2, 20, 32))


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "learned", "rotary", "alibi", "relative"])
def test_each_kind_of_position(positions: str) -> None:
    hold_equal(built(positions=positions), torch.randn(2, 20, 32))


@pytest.mark.parametrize(
    "shape",
    [
        {"norm": "rms", "activation": "swiglu", "head_norm": True, "bias": "qkv"},
        {"norm_place": "post", "positions": "learned"},
    ],
    ids=["llama", "bert"],
)
def test_each_kind_of_block(shape: dict[str, object]) -> None:
    hold_equal(built(**shape), torch.randn(2, 20, 32))


def test_packed_sequences() -> None:
    hold_equal(built(), torch.randn(1, 20, 32), lengths=[7, 9, 4])


def test_a_mask() -> None:
    mask = torch.arange(20) < torch.tensor([[20], [13]])
    hold_equal(built(causal=False), torch.randn(2, 20, 32), mask=mask)


def test_half_precision_through_operations_of_our_own() -> None:
    """Attention (components/attention/bf16.py) and GELU; nothing but casts may be fused otherwise than as written."""
    stack = built(key_value_heads=4)
    with torch.autocast("cpu", torch.bfloat16):
        hold_equal(stack, torch.randn(4, 20, 32), rtol=2e-2, atol=2e-2)


def test_torch_takes_gelu_for_a_sound_operation() -> None:
    torch.library.opcheck(gelu._gelu, (torch.randn(3, 8, requires_grad=True),))
