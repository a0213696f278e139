"""The snippet of docs/own-data.md, run as it stands on a model that transformers wrote."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models

TEXT = (Path(__file__).parents[2] / "docs" / "own-data.md").read_text(encoding="utf-8")


def test_a_folder_of_hugging_faces_is_read_and_written_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 50}
    theirs = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
    theirs.save_pretrained("data/raw/model")
    Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])).save("data/raw/model/tokenizer.json")
    [snippet] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(snippet, names)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        wanted = theirs(ids).logits
        torch.testing.assert_close(names["logits"], wanted, atol=1e-5, rtol=1e-5)
        again = AutoModelForCausalLM.from_pretrained("models/mine")
        torch.testing.assert_close(again(ids).logits, wanted, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained("models/mine")("ab").input_ids == [2]
