"""A decoder trained here, loaded by transformers in a process that knows nothing of this project."""

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.training.weights import save_model
from components.transformer.config import TransformerConfig
from flows.stages import export, runtime
from flows.stages.runtime import execute

PARAMS = """
train_decoder: {words: {}}
export:
  words: {run: words}
"""
READER = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
ids = AutoTokenizer.from_pretrained(sys.argv[1])("cat dog", add_special_tokens=False, return_tensors="pt").input_ids
with torch.no_grad():
    logits = AutoModelForCausalLM.from_pretrained(sys.argv[1])(ids).logits
print(json.dumps([ids.tolist(), logits.tolist()]))
"""
LLAMA = {"norm": "rms", "activation": "swiglu", "bias": "none", "key_value_heads": 2}


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in runtime.THREAD_VARIABLES:
        monkeypatch.setenv(variable, "1")
    Path("params.yaml").write_text(PARAMS)


def trained(**parts: object) -> CausalDecoder:
    """A folder as train_decoder leaves it."""
    torch.manual_seed(0)
    config = DecoderConfig(TransformerConfig(width=32, depth=2, heads=4, **parts), context=24)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<eos>"], show_progress=False)
    tokenizer.train_from_iterator(["cat dog hen"] * 3, trainer)
    folder = Path("models/train_decoder/words")
    model = CausalDecoder(config, tokenizer.get_vocab_size())
    save_model(folder, model, {"decoder": asdict(config), "vocabulary": tokenizer.get_vocab_size(), "seed": 1})
    tokenizer.save(str(folder / "tokenizer.json"))
    return model.eval()


def run() -> int:
    return execute("export", "words", export.Params, export.cost, export.run, "export")


def test_transformers_gives_the_same_logits() -> None:
    model = trained(**LLAMA)
    assert run() == 0
    command = [sys.executable, "-I", "-c", READER, str(Path("models/export/words").resolve())]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    ids, logits = json.loads(ended.stdout.splitlines()[-1])
    with torch.no_grad():
        torch.testing.assert_close(model(torch.tensor(ids)), torch.tensor(logits), atol=1e-5, rtol=1e-5)
    assert not list(Path("models/export").glob(".*"))


def test_what_no_family_has_is_one_line_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    trained()
    assert run() == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "train_decoder words: " in error
    assert "norm" in error
    assert not list(Path("models/export").glob("*"))


def test_a_full_disk_is_one_line_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    trained(**LLAMA)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        assert run() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("export@words: File too large: models/export/")
    assert "make room and start again" in error
    assert not list(Path("models/export").glob("*"))
