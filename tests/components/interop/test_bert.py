"""BERT: logits with padding, segments and packed rows, and files, equal transformers'."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.encoders.masked_language import MaskedLanguageModel
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.interop.folder import read, write
from components.transformer.config import TransformerConfig
from tests.components.interop.references import CONTEXT, VOCABULARY, bert

CLOSE = {"atol": 1e-5, "rtol": 0}  # measured: 3e-6; an epsilon of 1e-6 for 1e-5 shows as 6e-4
LENGTHS = torch.tensor([[CONTEXT], [13], [1]])
EVERYWHERE = torch.ones(3, CONTEXT, dtype=torch.bool)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    reference, folder = bert(), tmp_path_factory.mktemp("bert")
    reference.save_pretrained(folder)
    return reference, folder, read(folder).eval()


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(0)
    ids, segments = (torch.randint(high, (3, CONTEXT), generator=generator) for high in (VOCABULARY, 2))
    return ids, torch.arange(CONTEXT) < LENGTHS, segments


@torch.no_grad()
def test_logits_of_full_rows(pair, batch):
    reference, _, ours = pair
    logits = reference(batch[0]).logits
    assert logits.std() > 0.5
    torch.testing.assert_close(ours(batch[0], None, EVERYWHERE), logits.flatten(0, 1), **CLOSE)


@torch.no_grad()
def test_logits_of_padded_rows_with_segments(pair, batch):
    reference, _, ours = pair
    ids, mask, segments = batch
    logits = reference(ids, attention_mask=mask.long(), token_type_ids=segments).logits[mask]
    torch.testing.assert_close(ours(ids, mask, mask, segments=segments), logits, **CLOSE)
    packed, kinds = ids[mask][None], segments[mask][None]
    lengths = LENGTHS.flatten().tolist()
    torch.testing.assert_close(ours(packed, None, packed >= 0, lengths, kinds), logits, **CLOSE)


def test_a_written_folder_holds_the_files_that_were_read(pair, batch, tmp_path: Path):
    from transformers import AutoModelForMaskedLM

    reference, folder, ours = pair
    write(tmp_path, ours)
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    hidden = {"_name_or_path": None}
    assert again.config.to_dict() | hidden == reference.config.to_dict() | hidden
    with torch.no_grad():
        assert torch.equal(again(batch[0]).logits, reference(batch[0]).logits)


def test_names_of_old_and_parts_for_other_tasks_are_read(pair, batch, tmp_path: Path):
    _, folder, ours = pair
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["bert.pooler.dense.weight"] = torch.zeros(32, 32)
    tensors["cls.seq_relationship.bias"] = torch.zeros(2)
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, name in old.items():
        tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    again = read(tmp_path).eval()
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in ours.state_dict().items())


@torch.no_grad()
def test_an_encoder_without_segments_is_written_with_one_that_adds_nothing(batch, tmp_path: Path):
    from transformers import AutoModelForMaskedLM

    shape = TransformerConfig(width=32, depth=2, heads=4, positions="learned", norm_place="post")
    ours = MaskedLanguageModel(TextEncoder(TextConfig(shape, CONTEXT), VOCABULARY)).eval()
    write(tmp_path, ours)
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ids, mask, _ = batch
    logits = theirs(ids, attention_mask=mask.long()).logits[mask]
    torch.testing.assert_close(ours(ids, mask, mask), logits, **CLOSE)
