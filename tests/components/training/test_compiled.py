"""Compiled blocks: the results of plain ones, resumed to the bit, and a machine without a compiler."""

from pathlib import Path

import pytest
import torch
import torch._dynamo.utils
import torch._inductor.config
from torch import nn

from components.training.compiled import blocks, check_compiler, compiled
from components.training.fit import fit
from components.training.weights import weights
from tests.components.training.toy import Regression, StackedRegression, batches, config, equal


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # inductor's own
def test_blocks_are_found_and_left_as_they_were() -> None:
    model = StackedRegression().model
    assert blocks(model) == list(model.blocks)
    assert blocks(nn.Sequential(model, model.stem)) == list(model.blocks)
    plain = Regression().model
    assert blocks(plain) == [plain]
    with compiled(model, config(compile=True)):
        assert all(block._compiled_call_impl for block in blocks(model)) and not model._compiled_call_impl
    assert not any(block._compiled_call_impl for block in blocks(model))


def test_without_a_compiler_there_is_one_clear_error() -> None:
    message = r"^compile: torch.compile needs a C\+\+ compiler.*set compile: false$"
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(RuntimeError, match=message):
        check_compiler()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, on its way through inductor
@pytest.mark.parametrize("activations", ["keep", "selective", "recompute"])
def test_compiled_training_equals_plain_training_and_is_resumed_to_the_bit(tmp_path: Path, activations: str) -> None:
    plain, whole, part = StackedRegression(), StackedRegression(), StackedRegression()
    settings = {"activations": activations, "steps": 12}
    fit(plain, batches(4), config(**settings), checkpoints=None)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    fit(whole, batches(4), config(**settings, compile=True), checkpoints=None)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # for both blocks
    for name, value in weights(plain.model).items():
        torch.testing.assert_close(weights(whole.model)[name], value, rtol=1e-4, atol=1e-5)

    class Cut(Exception):
        pass

    def stream(start: int):
        for number, batch in enumerate(batches(4)(start), start):
            if number == 8:
                raise Cut
            yield batch

    with pytest.raises(Cut):
        fit(part, stream, config(**settings, compile=True), checkpoints=tmp_path)
    resumed = StackedRegression()
    fit(resumed, batches(4), config(**settings, compile=True), checkpoints=tmp_path)
    assert equal(resumed.model, whole.model)
