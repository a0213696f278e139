"""Variants by name, what the machine lacks for them, and the choice by the stated rule."""

import math
from pathlib import Path

import jaxtyping
import pytest
import torch
from torch import nn

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.encoders.recogniser import Recogniser
from components.encoders.speech import SpeechEncoder
from components.encoders.speech_config import FeaturesConfig, SpeechConfig
from components.inference import export, latency, variants
from components.inference.latency import Work
from components.transformer.config import TransformerConfig

SHAPE = TransformerConfig(32, 1, 4)


def row(variant: str, p50: float, quality: float) -> dict[str, object]:
    return {"variant": variant, "p50": p50, "quality": quality}


@pytest.mark.parametrize(
    ("better", "rows", "wanted"),
    [
        ("higher", [row("plain", 2.0, 0.90)], "plain"),
        ("higher", [row("plain", 2.0, 0.90), row("int8_dynamic", 1.0, 0.892)], "int8_dynamic"),  # 0.9% less
        ("higher", [row("plain", 2.0, 0.90), row("int8_dynamic", 1.0, 0.890)], "plain"),  # 1.1% less
        ("higher", [row("plain", 2.0, 0.90), row("int8_dynamic", 1.0, 0.99)], "int8_dynamic"),
        ("lower", [row("plain", 2.0, 0.100), row("int8_weights", 1.0, 0.1009)], "int8_weights"),
        ("lower", [row("plain", 2.0, 0.100), row("int8_weights", 1.0, 0.1012)], "plain"),
        ("lower", [row("plain", 2.0, 0.100), row("int8_weights", 1.0, 0.01)], "int8_weights"),
        ("lower", [row("plain", 2.0, 0.0), row("int8_weights", 1.0, 0.001)], "plain"),  # 1% of nothing
        ("lower", [row("plain", 2.0, 0.0), row("int8_weights", 1.0, 0.0)], "int8_weights"),
        ("lower", [row("int8_weights", 2.0, 1.0), row("plain", 2.0, 1.0)], "plain"),  # equally fast
        ("lower", [row("plain", 2.0, -1.0), row("bf16", 1.0, -0.995), row("onnx", 0.5, -0.9)], "bf16"),
        ("higher", [row("plain", 2.0, 0.9), row("onnx", 1.0, 0.9), row("bf16", 0.5, math.nan)], "onnx"),
        ("higher", [row("plain", 2.0, 0.9), row("onnx", 1.5, 0.9), row("bf16", 1.6, 0.99)], "onnx"),  # not the best one
    ],
)
def test_the_fastest_that_keeps_quality_is_chosen(better: str, rows: list, wanted: str) -> None:
    assert variants.choose(rows, better) == wanted
    assert variants.choose(rows[::-1], better) == wanted


def test_without_the_plain_model_nothing_can_be_chosen() -> None:
    with pytest.raises(ValueError, match="no row is of the variant plain"):
        variants.choose([row("onnx", 1.0, 0.9)], "higher")


def test_an_unknown_variant_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'int4' is unknown: choose one of plain, int8_weights.*onnx"):
        variants.apply(nn.Linear(2, 2), "int4", tmp_path)


def test_what_is_not_installed_is_said_once_and_by_apply_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PACKAGES", ("onnx", "no_such_package"))
    said = "onnx: no_such_package is not installed: install the extra, pip install 'tsumugi[onnx]'"
    assert variants.lacks("onnx") == said
    with pytest.raises(RuntimeError, match="no_such_package"):
        variants.apply(nn.Linear(2, 2), "onnx", tmp_path)
    assert variants.lacks("plain") == ""


def test_a_decoder_is_not_served_by_a_graph_without_cache(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no cache"):
        variants.apply(CausalDecoder(DecoderConfig(SHAPE, 8), 20), "onnx", tmp_path)


@pytest.mark.skipif(bool(variants.lacks("bf16")), reason=variants.lacks("bf16"))
def test_bf16_takes_what_fp32_takes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = SpeechConfig(SHAPE, longest=1.0, channels=8, features=FeaturesConfig(rate=8000, mels=16))
    model = Recogniser(SpeechEncoder(config), 9).eval()
    half = variants.apply(model, "bf16", tmp_path)
    waveforms, lengths = torch.randn(2, 4000) * 0.1, torch.tensor([4000, 2500])
    with torch.no_grad():
        wanted, got = model(waveforms, lengths), half(waveforms, lengths)
    assert got[0].dtype == torch.float32 and torch.equal(got[1], wanted[1])
    torch.testing.assert_close(got[0], wanted[0], rtol=0.05, atol=0.05)
    assert model.encoder.front.project.weight.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's own, on its way through inductor
def test_compiled_decodes_the_same_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # its wrappers are not for tracing
    from components.decoders.config import SamplingConfig
    from components.decoders.sampling import generate

    torch.manual_seed(0)
    model = CausalDecoder(DecoderConfig(SHAPE, 32), 40).eval()
    prompts, greedy = torch.randint(40, (2, 5)), SamplingConfig(temperature=0.0)
    wanted = generate(model, prompts, 20, greedy, torch.Generator())
    quick = variants.apply(model, "compiled", tmp_path)
    torch._dynamo.utils.counters.clear()
    assert torch.equal(generate(quick, prompts, 20, greedy, torch.Generator()), wanted)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 0 < compiled <= 3  # the prompt, the first step, and any further one


def work(size: int, pause: float) -> Work:
    """Holds and fills `size` bytes, and takes `pause` seconds at least."""
    held = torch.ones(size, dtype=torch.uint8)

    def answer() -> None:
        import time

        time.sleep(pause)
        torch.ones_like(held)

    return Work([answer] * 10, answer, 4, lambda: 0.5, held.nbytes)


def test_figures_are_those_of_the_work() -> None:
    makes = {"small": lambda: work(2**20, 0.001), "large": lambda: work(2**25, 0.004)}
    figures = latency.measure(makes, rounds=2)
    small, large = figures["small"], figures["large"]
    assert large["memory"] - small["memory"] > 1.8 * (2**25 - 2**20)  # held, and made once more
    assert large["size"] == 2**25 and large["quality"] == 0.5
    assert 0.001 <= small["p50"] <= small["p99"] and large["p50"] >= 0.004
    assert 0 < large["throughput"] <= 4 / 0.004


def test_what_fails_there_is_said_here() -> None:
    def make() -> Work:
        raise ValueError("no such model")

    with pytest.raises(RuntimeError, match="ValueError: no such model"):
        latency.measure({"plain": make}, rounds=1)
