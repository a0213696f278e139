"""Folders: what a process that knows transformers alone makes of ours, and what is refused."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.data.tokenizer import EOS, train
from components.data.tokenizer import load as load_tokenizer
from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.encoders.masked_language import MaskedLanguageModel
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.interop.folder import read, write
from components.training.weights import load_config, load_weights, save_model
from components.transformer.config import TransformerConfig
from flows.params import build

GPT2 = TransformerConfig(width=32, depth=2, heads=4, positions="learned", activation="gelu_tanh")
LLAMA = TransformerConfig(width=32, depth=2, heads=4, key_value_heads=2, norm="rms", activation="swiglu", bias="none")
BERT = TransformerConfig(width=32, depth=2, heads=4, positions="learned", norm_place="post")
TEXTS = ["a red square above a blue circle", "赤い四角の上に青い丸がある"]

READER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

assert not any(name.split(".")[0] == "components" for name in sys.modules)

def answer(folder, causal, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind = AutoModelForCausalLM if causal else AutoModelForMaskedLM
    model, loading = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values()), loading
    ids = [tokenizer(text)["input_ids"] for text in texts]
    with torch.no_grad():
        logits = [model.eval()(torch.tensor([row])).logits[0].tolist() for row in ids]
    written = []
    if causal:
        written = model.generate(torch.tensor([ids[0]]), max_new_tokens=6, do_sample=False)[0].tolist()
    tokens = [tokenizer.eos_token_id, tokenizer.pad_token, tokenizer.mask_token, model.config.eos_token_id]
    return {"ids": ids, "logits": logits, "written": written, "tokens": tokens,
            "decoded": [tokenizer.decode(row) for row in ids]}

root, kinds, texts = map(json.loads, sys.argv[1:])
print("ANSWERS" + json.dumps({kind: answer(f"{root}/{kind}", kind != "bert", texts) for kind in kinds}))
"""
SHAPES = {"gpt2": GPT2, "llama": LLAMA, "qwen2": replace(LLAMA, bias="qkv"), "qwen3": replace(LLAMA, head_norm=True)}


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    train(TEXTS * 20, 300).save(str(folder / "tokenizer.json"))
    return folder


def vocabulary(words: Path) -> int:
    return load_tokenizer(words).get_vocab_size()


def decoder(shape: TransformerConfig = GPT2, words: int = 50, tied: bool = True) -> CausalDecoder:
    torch.manual_seed(0)
    model = CausalDecoder(DecoderConfig(shape, context=32, tied=tied), words)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model.eval()


@pytest.fixture(scope="module")
def elsewhere(words: Path, tmp_path_factory):
    """Models in folders, and what a fresh process says of them that imports transformers and nothing of ours."""
    root, size = tmp_path_factory.mktemp("written"), vocabulary(words)
    torch.manual_seed(0)
    models = {kind: decoder(shape, size, tied=kind != "llama") for kind, shape in SHAPES.items()}
    models["bert"] = MaskedLanguageModel(TextEncoder(TextConfig(BERT, 32, segments=2), size)).eval()
    for kind, model in models.items():
        write(root / kind, model, words)
    command = [sys.executable, "-I", "-c", READER, *map(json.dumps, (str(root), list(models), TEXTS))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return root, models, json.loads(done.stdout.split("ANSWERS")[1])


@pytest.mark.parametrize("kind", [*SHAPES, "bert"])
@torch.no_grad()
def test_a_fresh_process_with_transformers_alone_reads_model_and_tokenizer(kind, words, elsewhere):
    root, models, answers = elsewhere
    files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in (root / kind).iterdir()) == files
    model, answer = models[kind], answers[kind]
    ids, written = answer["ids"], answer["written"]
    assert ids == [load_tokenizer(words).encode(text, add_special_tokens=False).ids for text in TEXTS]
    assert answer["decoded"] == TEXTS
    assert answer["tokens"] == [EOS, "<pad>", "<mask>", EOS]
    for row, logits in zip(ids, answer["logits"], strict=True):
        given = torch.tensor([row])
        own = model(given, None, given >= 0) if kind == "bert" else model(given)[0]
        torch.testing.assert_close(own, torch.tensor(logits), atol=1e-4, rtol=0)
    if kind != "bert":
        guessed = model(torch.tensor([written]))[0].argmax(-1).tolist()
        assert written[len(ids[0]) :] == guessed[len(ids[0]) - 1 : -1]


@pytest.mark.parametrize("kind", [*SHAPES, "bert"])
def test_what_was_written_is_read_with_the_same_bits_and_written_again_with_the_same_bytes(kind, elsewhere, tmp_path):
    root, models, _ = elsewhere
    again = read(root / kind)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in models[kind].state_dict().items())
    write(tmp_path, again, root / kind)
    for path in (root / kind).iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_a_model_that_was_read_goes_into_a_folder_of_ours_and_back(tmp_path: Path):
    """What the stages write: weights, and the configuration as it stands in params.yaml."""
    write(tmp_path / "theirs", decoder(LLAMA, tied=False))
    model = read(tmp_path / "theirs")
    save_model(tmp_path / "ours", model, {"decoder": asdict(model.config), "vocabulary": 50})
    config = load_config(tmp_path / "ours")
    again = CausalDecoder(build("decoder", DecoderConfig, config), config["vocabulary"])
    assert again.config == model.config
    load_weights(tmp_path / "ours", again)
    write(tmp_path / "back", again)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "theirs" / name).read_bytes() == (tmp_path / "back" / name).read_bytes()


def test_parts_that_an_index_lists_are_read(tmp_path: Path):
    model = decoder()
    write(tmp_path, model)
    tensors, places = load_file(tmp_path / "model.safetensors"), {}
    for part, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2])):
        save_file({name: tensors[name] for name in names}, tmp_path / f"part-{part}.safetensors")
        places |= dict.fromkeys(names, f"part-{part}.safetensors")
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    again = read(tmp_path)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"part-1.safetensors is missing, and the index of its parts lists it$"):
        read(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../other/model.safetensors"}}))
    with pytest.raises(ValueError, match="must give each tensor a file of this folder"):
        read(tmp_path)


def test_half_precision_is_kept_in_files_and_read_as_fp32(tmp_path: Path):
    write(tmp_path, decoder().bfloat16())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert {weight.dtype for weight in read(tmp_path).parameters()} == {torch.float32}
