"""int8 layers against fp32 ones: every element within the bound that the scales give, alone as in a batch."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from components.contrastive.towers import TwoTowers
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig, SamplingConfig
from components.decoders.sampling import generate
from components.encoders.image import ImageEncoder
from components.encoders.image_config import ImageConfig
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.inference.quantise import FEW, Int8Dynamic, Int8Embedding, Int8Layer, Int8Weights, quantise
from components.inference.variants import lacks
from components.training.weights import copy_weights, weights
from components.transformer.config import TransformerConfig

LAYERS = [
    Int8Weights,
    pytest.param(Int8Dynamic, marks=pytest.mark.skipif(bool(lacks("int8_dynamic")), reason=lacks("int8_dynamic"))),
]
SUMS = 1e-5  # what fp32 sums over these widths round, relative to the sum of magnitudes
BF16 = 2 * 2.0**-8  # what rounding features and outputs to bf16 does at the most, relative


def decoder(**parts: object) -> CausalDecoder:
    torch.manual_seed(0)
    return CausalDecoder(DecoderConfig(TransformerConfig(32, 2, 4, **parts), context=24), vocabulary=40).eval()


def bound(linear: nn.Linear, layer: Int8Layer, features: torch.Tensor) -> torch.Tensor:
    """What rounding may change of each output at the most."""
    weight, halves = linear.weight.double(), layer.scales.double() / 2
    largest = features.double().abs()
    magnitude = largest @ weight.abs().T + 1
    error = largest.sum(1, keepdim=True) * halves + SUMS * magnitude
    if isinstance(layer, Int8Dynamic):
        steps = largest.amax(1, keepdim=True) / 127 / 2
        return error + steps * weight.abs().sum(1) + 2 * linear.in_features * steps * halves
    assert isinstance(layer, Int8Weights)
    few = len(features) <= layer.few
    return error + few * BF16 * (magnitude + largest.sum(1, keepdim=True) * halves)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("rows", [1, 3, FEW, FEW + 1, 200])
@pytest.mark.parametrize("shape", [(96, 288), (33, 7), (1, 5), (8, 1), (256, 96), (40, 9)])
def test_every_output_is_within_the_bound_of_its_scales(layer: type[Int8Layer], rows: int, shape: tuple) -> None:
    torch.manual_seed(rows)
    linear = nn.Linear(*shape)
    linear.weight.data *= torch.logspace(-3, 2, shape[1])[:, None]  # channels of very unequal size
    linear.weight.data[1::4] = 0.0
    features = torch.randn(rows, shape[0]) * torch.logspace(-2, 3, rows)[:, None]
    with torch.no_grad():
        quick = layer(linear.weight, linear.bias)
        error = (quick(features).double() - linear.double()(features.double())).abs()
    assert (error <= bound(linear, quick, features)).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_rows_of_zeros_give_the_bias_and_any_shape_goes_in(layer: type[Int8Layer]) -> None:
    linear = nn.Linear(16, 24)
    quick = layer(linear.weight, linear.bias)
    torch.testing.assert_close(quick(torch.zeros(2, 5, 16)), linear.bias.expand(2, 5, 24))
    features = torch.randn(5, 2, 16).transpose(0, 1)
    torch.testing.assert_close(quick(features), quick(features.reshape(10, 16)).view(2, 5, 24))
    row = torch.randn(2, 16)[:1].as_strided((1, 16), (0, 1))  # one row may have any stride
    torch.testing.assert_close(quick(row), quick(row.repeat(3, 1))[:1])


@pytest.mark.parametrize("layer", LAYERS)
def test_an_answer_does_not_depend_on_the_rows_beside_it(layer: type[Int8Layer]) -> None:
    quick = layer(torch.randn(64, 32), None)
    alone, loud = torch.randn(1, 32), torch.randn(40, 32) * 1000
    tolerance = 1e-5 if layer is Int8Dynamic else 0.05  # few rows are rounded to bf16, many are not
    torch.testing.assert_close(quick(torch.cat([alone, loud]))[:1], quick(alone), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(quick(torch.cat([alone, loud[:8]]))[:1], quick(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoder_keeps_its_scores_and_its_cache(layer: type[Int8Layer], dtype: torch.dtype) -> None:
    plain = decoder().to(dtype)
    quick = quantise(plain, layer)
    ids = torch.randint(40, (2, 12))
    with torch.no_grad():
        close = (quick(ids).float() - plain(ids).float()).norm() / plain(ids).float().norm()
        assert close < 0.05
        cache = quick.cache(2)
        steps = [quick.logits(quick.hidden(ids[:, i : i + 1], cache)) for i in range(12)]
    assert cache.keys.dtype == dtype
    tolerance = 0.1 if dtype == torch.bfloat16 else {Int8Weights: 0.01, Int8Dynamic: 1e-4}[layer]
    torch.testing.assert_close(torch.cat(steps, 1), quick(ids), rtol=tolerance, atol=tolerance)
    drawn = generate(quick, ids[:, :4], 8, SamplingConfig(temperature=0.0), torch.Generator())
    assert drawn.shape == (2, 8)


def test_a_tied_table_is_held_once_and_the_model_stays() -> None:
    plain = decoder(bias="none", norm="rms")
    before = copy.deepcopy(plain.state_dict())
    quick = quantise(plain, Int8Weights)
    assert isinstance(quick.embedding, Int8Embedding)
    assert quick.embedding.weight is quick.head.weight and quick.embedding.scales is quick.head.scales
    stored, full = weights(quick), weights(plain)
    assert stored["embedding.weight"].dtype == torch.int8 and "head.weight" not in stored

    def size(tensors: dict[str, torch.Tensor]) -> int:
        return sum(tensor.nbytes for tensor in tensors.values())

    others = sum(tensor.nbytes for tensor in full.values() if tensor.ndim < 2)
    scales = sum(tensor.nbytes for name, tensor in stored.items() if name.endswith("scales"))
    assert size(stored) == (size(full) - others) // 4 + others + scales
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, before[name])
    untied = CausalDecoder(DecoderConfig(TransformerConfig(32, 1, 4), context=8, tied=False), 40)
    assert isinstance(quantise(untied, Int8Weights).embedding, nn.Embedding)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_file_gives_the_same_answers_bit_for_bit(layer: type[Int8Layer], tmp_path: Path) -> None:
    quick, other = quantise(decoder(), layer), quantise(decoder(), layer)
    ids = torch.randint(40, (3, 9))
    with torch.no_grad():
        wanted = quick(ids)
        for parameter in other.parameters():
            parameter.zero_()
        save_file(weights(quick), tmp_path / "int8.safetensors")
        assert not torch.equal(other(ids), wanted)
        copy_weights(load_file(tmp_path / "int8.safetensors"), other, tmp_path)
        assert torch.equal(other(ids), wanted)
        assert torch.equal(copy.deepcopy(other)(ids), wanted)


@pytest.mark.parametrize("layer", LAYERS)
def test_towers_keep_their_neighbours(layer: type[Int8Layer]) -> None:
    torch.manual_seed(0)
    shape = TransformerConfig(32, 1, 4, positions="learned")
    towers = TwoTowers(ImageEncoder(ImageConfig(shape, size=32, patch=16)), TextEncoder(TextConfig(shape, 16), 30), 24)
    images, ids = torch.rand(6, 3, 32, 32), torch.randint(30, (6, 9))
    quick = quantise(towers.eval(), layer)
    with torch.no_grad():
        for wanted, got in zip(towers(images, ids)[:2], quick(images, ids)[:2], strict=True):
            assert (wanted * got).sum(1).amin() > 0.999
