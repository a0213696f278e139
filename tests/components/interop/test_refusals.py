"""Folders and models that cannot be carried over: one line that names the file or field, and what was wanted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from components.attention.config import Local
from components.data.tokenizer import train
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.encoders.masked_language import MaskedLanguageModel
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.interop.folder import read, write
from components.transformer.config import TransformerConfig

GPT2 = TransformerConfig(width=32, depth=1, heads=4, positions="learned", activation="gelu_tanh")
LLAMA = TransformerConfig(width=32, depth=1, heads=4, norm="rms", activation="swiglu", bias="none")
BERT = replace(GPT2, norm_place="post", activation="gelu")


def decoder(shape: TransformerConfig = GPT2) -> CausalDecoder:
    return CausalDecoder(DecoderConfig(shape, context=8), vocabulary=20)


def saved(folder: Path, shape: TransformerConfig = GPT2) -> Path:
    write(folder, decoder(shape))
    return folder


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read(folder)
    assert "\n" not in str(error.value)


def change(folder: Path, **settings) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


def change_weights(folder: Path, change) -> Path:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_pickle_is_refused_unopened(tmp_path: Path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    refused(tmp_path, "holds pytorch_model.bin, a pickle, .* convert it with the library that")


def test_missing_files(tmp_path: Path):
    refused(tmp_path, "config.json is missing: .* is no folder of a model$")
    (saved(tmp_path) / "model.safetensors").unlink()
    refused(tmp_path, "holds neither model.safetensors nor model.safetensors.index.json")


@pytest.mark.parametrize("size", [0, 5, 100, 5000])
def test_a_truncated_file(tmp_path: Path, size: int):
    path = saved(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(tmp_path, r"model.safetensors is damaged \([^\n]*\): fetch it again$")


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_damaged_configuration(tmp_path: Path, text: str):
    (saved(tmp_path) / "config.json").write_text(text)
    refused(tmp_path, "config.json is damaged")


@pytest.mark.parametrize("kind", ["t5", None, ["gpt2"]])
def test_an_unknown_family(tmp_path: Path, kind: object):
    change(saved(tmp_path), model_type=kind)
    refused(tmp_path, r"config.json: model_type .* is unknown: known are bert, gpt2, llama, qwen2, qwen3$")


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        (GPT2, {"activation_function": "mish"}, "config.json: activation 'mish' is unknown: known are gelu, gelu_new"),
        (GPT2, {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer_idx is True, and only False is known here"),
        (GPT2, {"n_layer": None}, "config.json: n_layer is None, and must be a whole number above 0"),
        (GPT2, {"n_head": 5}, "config.json: width 32 does not divide by heads 5"),
        (LLAMA, {"hidden_act": "gelu"}, "hidden_act is 'gelu', and only 'silu' is known here"),
        (LLAMA, {"rope_parameters": {"rope_type": "llama3"}}, "rotary positions are of kind 'llama3'"),
        (LLAMA, {"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "rotary positions are of kind 'linear'"),
        (LLAMA, {"attention_bias": True}, "attention_bias is True and mlp_bias False: only both, or neither"),
        (LLAMA, {"model_type": "qwen2", "layer_types": ["sliding_attention"]}, "layer_types holds 'sliding_attention'"),
        (LLAMA, {"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window is True"),
    ],
)
def test_settings_that_ours_cannot_follow(tmp_path: Path, shape, settings, message):
    refused(change(saved(tmp_path, shape), **settings), message)


def test_weights_of_another_model(tmp_path: Path):
    saved(tmp_path)
    change_weights(tmp_path, lambda tensors: tensors.pop("transformer.h.0.ln_2.bias"))
    refused(tmp_path, "model.safetensors is of another model: it lacks transformer.h.0.ln_2.bias$")
    saved(tmp_path)
    change_weights(tmp_path, lambda tensors: tensors.update({"transformer.h.1.ln_2.bias": torch.zeros(32)}))
    refused(tmp_path, "another model: it has transformer.h.1.ln_2.bias, which ours has no place for$")
    saved(tmp_path)
    change_weights(tmp_path, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(20, 32)}))
    refused(tmp_path, "lm_head.weight is tied to transformer.wte.weight, and they differ$")
    change(saved(tmp_path), n_positions=9)
    refused(tmp_path, r"does not fit its configuration: transformer.wpe.weight is \[8, 32\], and \[9, 32\] is wanted$")
    llama = (saved(tmp_path / "llama", LLAMA) / "model.safetensors").read_bytes()
    (saved(tmp_path) / "model.safetensors").write_bytes(llama)
    refused(tmp_path, "model.safetensors is of another model: it lacks transformer.wte.weight$")


def test_square_matrices_kept_the_other_way_round_are_seen_by_their_neighbours_shapes(tmp_path: Path):
    def turn(tensors):
        for name in [name for name in tensors if name.endswith("c_attn.weight")]:
            tensors[name] = tensors[name].T.contiguous()

    change_weights(saved(tmp_path), turn)
    refused(tmp_path, r"c_attn.weight is \[96, 32\], and \[32, 96\] is wanted$")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            replace(LLAMA, norm="layer"),
            "^norm layer is none of Llama's, which asks for positions rotary, norm rms, ",
        ),
        (replace(LLAMA, activation="gelu"), "^activation gelu is none of Llama's, .* activation swiglu"),
        (
            replace(LLAMA, positions="alibi"),
            "^positions alibi is none of Llama's, .*; GPT-2 for positions learned",
        ),
        (replace(LLAMA, bias="all", head_norm=True), "^bias all is none of Qwen3's, which .* bias none; GPT-2 for"),
        (
            replace(GPT2, activation="swiglu"),
            "^activation swiglu is none of GPT-2's, .*; Llama for positions",
        ),
        (replace(GPT2, key_value_heads=2), "^key_value_heads 2 is none of GPT-2's, which .* key_value_heads null or 4"),
        (replace(GPT2, attention=Local()), "^attention local is none of GPT-2's, which asks for attention softmax"),
    ],
)
def test_decoders_that_no_family_can_represent(tmp_path: Path, shape, message):
    with pytest.raises(ValueError, match=message) as error:
        write(tmp_path / "x", decoder(shape))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TextConfig(replace(BERT, norm_place="pre"), 8), "^norm_place pre is none of BERT's, .* norm_place post"),
        (TextConfig(BERT, 8, causal=True), "^causal True is none of BERT's"),
    ],
)
def test_encoders_that_bert_cannot_represent(tmp_path: Path, config, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "x", MaskedLanguageModel(TextEncoder(config, 20)))


def test_models_and_tokenizers_that_do_not_fit(tmp_path: Path):
    with pytest.raises(ValueError, match="a Linear is none of Hugging Face's models that are known: bert, gpt2"):
        write(tmp_path / "x", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"tokenizer.json is missing or damaged \("):
        write(tmp_path / "x", decoder(), tmp_path)
    train(["a"], 300).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="tokenizer.json has 262 tokens, and the model 20: it is another model's$"):
        write(tmp_path / "x", decoder(), tmp_path)
    assert not (tmp_path / "x").exists()
