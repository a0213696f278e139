"""GPT-2, Llama, Qwen2 and Qwen3: logits, cached decoding and files equal transformers'."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.interop.folder import read, write
from tests.components.interop.references import CONTEXT, DECODERS, VOCABULARY, decoder

CLOSE = {"atol": 1e-5, "rtol": 0}  # measured: 3e-6; an epsilon of 1e-6 for 1e-5 shows as 6e-4


@pytest.fixture(scope="module", params=DECODERS)
def pair(request, tmp_path_factory):
    """The reference, the folder that it saved, and ours read from there."""
    reference, folder = decoder(request.param), tmp_path_factory.mktemp(request.param)
    reference.save_pretrained(folder)
    return reference, folder, read(folder).eval()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_logits_of_full_rows(pair, ids):
    reference, _, ours = pair
    logits = reference(ids).logits
    assert logits.std() > 0.5  # something to compare
    torch.testing.assert_close(ours(ids), logits, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_rows(pair, ids, side):
    reference, _, ours = pair
    mask = torch.arange(CONTEXT) < torch.tensor([[CONTEXT], [13], [1]])
    mask = mask.flip(1) if side == "left" else mask
    places = torch.arange(CONTEXT).expand_as(ids)
    logits = reference(ids, attention_mask=mask.long(), position_ids=places).logits
    torch.testing.assert_close(ours(ids, mask)[mask], logits[mask], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * CONTEXT, [10] + [1] * 14, [7, 9, 8]])
def test_logits_of_cached_steps(pair, ids, pieces):
    reference, _, ours = pair
    cache, past = ours.cache(len(ids)), None
    for part in ids.split(pieces, dim=1):
        output = reference(part, past_key_values=past, use_cache=True)
        past = output.past_key_values
        torch.testing.assert_close(ours.logits(ours.hidden(part, cache)), output.logits, **CLOSE)


def test_a_written_folder_holds_the_files_that_were_read(pair, tmp_path: Path):
    _, folder, ours = pair
    write(tmp_path, ours)
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_written_folder_is_read_by_transformers_with_the_same_settings(pair, ids, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    reference, _, ours = pair
    write(tmp_path, ours)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(again) is type(reference)
    written = {"_name_or_path", "n_inner", "head_dim"}  # ours writes out what was left to follow from others
    before, after = ({**model.config.to_dict(), **dict.fromkeys(written)} for model in (reference, again))
    assert before == after
    with torch.no_grad():
        assert torch.equal(again(ids).logits, reference(ids).logits)


def rewritten(folder: Path, source: Path, settings, tensors) -> Path:
    """A copy of a folder, as an older version of transformers would have left it."""
    (folder / "config.json").write_text(json.dumps(settings(json.loads((source / "config.json").read_text()))))
    save_file(tensors(load_file(source / "model.safetensors")), folder / "model.safetensors")
    return folder


def test_gpt2_without_a_head_and_with_stored_masks_is_read(tmp_path: Path):
    """The names of the files that OpenAI's weights are spread in."""
    decoder("gpt2").save_pretrained(tmp_path)

    def older(tensors):
        found = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        return found | {"h.0.attn.bias": torch.ones(1, 1, CONTEXT, CONTEXT), "h.1.attn.masked_bias": torch.tensor(-1e4)}

    expected = read(tmp_path).state_dict()
    (tmp_path / "older").mkdir()
    again = read(rewritten(tmp_path / "older", tmp_path, lambda settings: settings, older)).state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in expected.items())


@torch.no_grad()
def test_llama_with_the_rotary_base_beside_it_and_stored_frequencies_is_read(tmp_path: Path, ids):
    decoder("llama-tied-biased-heads").save_pretrained(tmp_path)

    def older(settings):
        base = settings.pop("rope_parameters")["rope_theta"]
        return settings | {"rope_theta": int(base), "rope_scaling": None}

    def stored(tensors):
        return tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(6)}

    expected = read(tmp_path).eval()
    (tmp_path / "older").mkdir()
    again = read(rewritten(tmp_path / "older", tmp_path, older, stored)).eval()
    assert again.config == expected.config and again.config.transformer.rotary_base == 500.0
    assert torch.equal(again(ids), expected(ids))
