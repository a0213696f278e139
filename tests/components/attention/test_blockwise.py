"""The engine of the patterns: precisions, padding, what wraps it, and FlexAttention's view of the same pattern."""

import jaxtyping
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from components.attention.block_sparse import BlockSparseCore
from components.attention.blockwise import plan
from components.attention.local import LocalCore
from components.attention.shapes import check
from tests.components.attention.dense import compare, inputs, softmax, tail

CORES = {
    "local": LocalCore(window=20, causal=False),
    "local causal": LocalCore(window=20, causal=True),
    "block-sparse": BlockSparseCore(block=16, causal=False),
    "block-sparse causal": BlockSparseCore(block=16, causal=True),
}
each_core = pytest.mark.parametrize("core", CORES.values(), ids=CORES)


def allowed(core, length: int) -> torch.Tensor:
    places = torch.arange(length)
    return core.pattern(length).rule(places.device)(places[:, None], places)[None]


@each_core
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_the_finite_differences(core, masked):
    *sources, _ = inputs(70, heads=2, groups=1, features=2)
    mask = tail(70) if masked else None
    assert torch.autograd.gradcheck(lambda *sources: core(*sources, mask), sources, fast_mode=True)


@each_core
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
def test_other_precisions(core, dtype, tolerance):
    given = inputs(150, groups=2, dtype=dtype)
    exact = [part.double() for part in given]
    expected = softmax(*exact[:3], allowed(core, 150)).to(dtype)
    compare(core, given, expected, rtol=tolerance, atol=tolerance)


@each_core
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_queries_without_a_real_key_give_zeros_and_pass_none_back(core, dtype):
    """Padding at the start, and one row that is nothing else; longer than the kernel's own 512 keys a step."""
    length, start = 1100, 900
    given = inputs(length, heads=2, groups=2, features=4, dtype=dtype)
    mask = torch.arange(length) >= torch.tensor([[start], [length]])
    if dtype == torch.float64:
        compare(core, given, softmax(*given[:3], allowed(core, length) & mask[:, None]), mask)
    out = core(*given[:3], mask)
    gradients = torch.autograd.grad(out, given[:3], given[3])
    assert not out[1].any()
    assert all(part.isfinite().all() and not part[1].any() for part in (out, *gradients))


@each_core
def test_padding_of_another_kind_changes_nothing(core):
    *sources, _ = inputs(60)
    mask = tail(60)
    spoilt = [torch.where(mask[:, None, :, None], part, 1e4) for part in sources]
    found, expected = (core(*parts, mask).transpose(1, 2)[mask] for parts in (spoilt, sources))
    torch.testing.assert_close(found, expected)


@each_core
def test_strides_of_projections_and_of_an_expanded_cotangent(core):
    packed = torch.randn(2, 50, 3, 4, 8, dtype=torch.float64, requires_grad=True)
    sources = [part.transpose(1, 2) for part in packed.unbind(2)]
    expected = softmax(*sources, allowed(core, 50))
    out = core(*sources)
    assert out.transpose(1, 2).is_contiguous()  # heads merge without a copy
    torch.testing.assert_close(torch.autograd.grad(out.sum(), packed), torch.autograd.grad(expected.sum(), packed))


@each_core
def test_inside_checkpoint(core):
    given = inputs(60)
    expected = core(*given[:3])
    compare(lambda *sources: checkpoint(core, *sources, use_reentrant=False), given, expected)


@each_core
def test_autocast_computes_in_its_precision(core):
    *sources, cotangent = inputs(60, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = core(*sources)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, core(*(part.bfloat16() for part in sources)))
    gradients = torch.autograd.grad(out, sources, cotangent.bfloat16())
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, where a graph breaks
def test_a_compiled_module_gives_the_same(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its wrappers are not for tracing

    class Twice(torch.nn.Module):
        core = CORES["local causal"]

        def forward(self, queries, keys, values):
            return self.core(queries * 2, keys, values) * 2

    given = inputs(60)
    *sources, cotangent = given
    # eager backend: what is tested is the break in the graph
    found, expected = torch.compile(Twice(), backend="aot_eager")(*sources), Twice()(*sources)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, sources, cotangent), torch.autograd.grad(expected, sources, cotangent)
    )


@each_core
def test_plans_hold_few_masks(core):
    tiles = plan(core.pattern(4096), torch.float32)
    assert len({id(tile.bias) for tile in tiles}) <= 8


@each_core
@pytest.mark.parametrize("length", [1, 100, 128, 300, 1000])
def test_flex_attention_masks_the_same_pairs(core, length):
    from torch.nn.attention.flex_attention import create_mask

    from components.attention.flex import BLOCK, block_mask

    blocks = block_mask(core.pattern(length), torch.device("cpu"))
    pairs = create_mask(blocks.mask_mod, 1, 1, length, length, "cpu")[0, 0]
    tokens = blocks.to_dense()[0, 0].bool().repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    expected = allowed(core, length)[0]
    assert (pairs == expected).all()
    assert not (expected & ~tokens[:length, :length]).any()  # no allowed pair lies in a skipped block
    cut = blocks.to_dense()[0, 0].bool()
    for row, column in cut.nonzero().tolist():  # and no block is computed for nothing
        assert expected[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK].any()


@each_core
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("masked", [False, True])
def test_flex_attention_gives_the_same(core, masked):
    from torch.nn.attention.flex_attention import flex_attention

    from components.attention.flex import attend_flex

    *sources, _ = (part.detach() for part in inputs(300, groups=2, dtype=torch.float32))
    mask = tail(300) if masked else None
    found = attend_flex(*sources, mask, core.pattern(300), flex_attention)
    torch.testing.assert_close(found, core(*sources, mask), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "mask", "message"),
    [
        ([(2, 4, 9, 8), (2, 4, 8, 8), (2, 4, 8, 8)], None, "8 keys do not fit 9 queries"),
        ([(2, 4, 9, 8), (2, 3, 9, 8), (2, 3, 9, 8)], None, "4 heads of queries do not divide by 3 heads of keys"),
        ([(2, 4, 9, 8), (2, 4, 9, 8), (2, 2, 9, 8)], None, r"keys are \[2, 4, 9, 8\] and values \[2, 2, 9, 8\]"),
        ([(2, 4, 9, 8), (1, 4, 9, 8), (1, 4, 9, 8)], None, r"keys are \[1, 4, 9, 8\] and queries \[2, 4, 9, 8\]"),
        ([(2, 4, 9, 8)] * 3, torch.ones(2, 9), r"the mask is torch.float32 \[2, 9\]: it must be torch.bool \[2, 9\]"),
        (
            [(2, 4, 9, 8)] * 3,
            torch.ones(2, 7).bool(),
            r"the mask is torch.bool \[2, 7\]: it must be torch.bool \[2, 9\]",
        ),
    ],
)
def test_refuses_what_does_not_fit_with_both_sides(shapes, mask, message):
    with pytest.raises(ValueError, match=message):
        check(*(torch.zeros(shape) for shape in shapes), mask)
