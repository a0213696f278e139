"""Packed weights: the same logits within rounding, and the decoder given stays as it was."""

import pytest
import torch

from components.inference.engine.packed import packed
from tests.components.inference.engine.fixtures import VOCABULARY, built


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("shape", [{}, {"bias": "none", "activation": "swiglu", "norm": "rms", "key_value_heads": 2}])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-4), (torch.bfloat16, 0.3)])
def test_packed_logits_are_the_decoders(rows, shape, dtype, atol):
    decoder = built(**shape).to(dtype)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    given = packed(decoder, rows)
    for tokens in (1, 7):  # MKL packs for one number of rows
        ids = torch.randint(VOCABULARY, (rows, tokens))
        with torch.inference_mode():
            torch.testing.assert_close(given(ids), decoder(ids), atol=atol, rtol=1e-2)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    assert decoder.head is None


def test_other_kinds_of_linear_layers_stay():
    class Quantised(torch.nn.Linear):
        pass

    decoder = built()
    decoder.stack.blocks[0].attention.project_in = Quantised(32, 96)
    given = packed(decoder, 4)
    assert type(given.stack.blocks[0].attention.project_in) is Quantised
    assert type(given.stack.blocks[1].attention.project_in) is not torch.nn.Linear
