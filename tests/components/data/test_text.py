"""Rows of ids, masking and padding: against counts and batches worked out by hand."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from components.data.loader import Loader
from components.data.text import (
    UNCHOSEN,
    LabelledRows,
    MaskedRows,
    Rows,
    collate_labelled,
    collate_masked,
    cut,
    encode,
    mask,
    pad,
    real,
)
from components.data.tokenizer import MASK, PAD, SPECIAL, train
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.transformer.config import TransformerConfig

VOCABULARY = 1000


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train(["a small red star", "左上に赤い星"], 262)  # bytes alone


def test_rows_give_back_every_text_of_any_length(tokenizer: Tokenizer) -> None:
    texts = ["red star", "", "星", *(f"number {n}" for n in range(2500))]
    rows = Rows(encode(texts, tokenizer))
    assert len(rows) == len(texts)
    assert [tokenizer.decode(list(row)) for row in rows] == texts  # <pad> decodes to nothing
    assert rows[1].tolist() == [PAD]
    assert rows.lengths[:3].tolist() == [8, 1, 3]


def test_cut_loses_nothing_and_keeps_to_the_context() -> None:
    rows = [list(range(10, 17)), [5], list(range(20, 26))]
    assert list(cut(rows, 3)) == [[10, 11, 12], [13, 14, 15], [16], [5], [20, 21, 22], [23, 24, 25]]


def test_masking_keeps_bert_s_proportions() -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(len(SPECIAL), VOCABULARY, 200_000)
    seen, targets = mask(ids, 0.15, VOCABULARY, rng)
    chosen = targets != UNCHOSEN
    assert abs(chosen.sum() - 30_000) <= 1
    assert (targets[chosen] == ids[chosen]).all()
    assert (seen[~chosen] == ids[~chosen]).all()
    masked, same = seen[chosen] == MASK, seen[chosen] == ids[chosen]
    assert masked.mean() == pytest.approx(0.8, abs=0.01)  # 4 deviations of 30,000 draws
    assert same.mean() == pytest.approx(0.1, abs=0.008)
    replaced = seen[chosen][~masked & ~same]
    assert replaced.min() >= len(SPECIAL)
    assert replaced.max() < VOCABULARY


@pytest.mark.parametrize("length", [1, 2, 7, 10])
def test_masking_chooses_the_share_on_average_and_one_at_least(length: int) -> None:
    ids = np.arange(length) + 10
    counts = [(mask(ids, 0.15, VOCABULARY, np.random.default_rng(seed))[1] >= 0).sum() for seed in range(2000)]
    assert min(counts) == 1
    assert np.mean(counts) == pytest.approx(max(1.0, 0.15 * length), abs=0.05)
    assert max(counts) <= max(1, np.ceil(0.15 * length))


def test_masking_is_new_each_epoch_in_training_and_fixed_in_validation() -> None:
    rows = MaskedRows(Rows([[*range(10, 30)]]), 0.15, VOCABULARY)
    drawn = [rows(0, np.random.default_rng(seed))[1].tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert rows(0, None)[0].tolist() == rows(0, None)[0].tolist()


def test_a_batch_by_hand() -> None:
    batch = collate_masked([(np.array([7, MASK, 9]), np.array([-100, 8, -100])), (np.array([MASK]), np.array([6]))])
    assert batch.ids.tolist() == [[7, MASK, 9], [MASK, PAD, PAD]]
    assert batch.mask is not None
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.targets.tolist() == [[-100, 8, -100], [6, -100, -100]]
    assert collate_masked([(np.array([7, 8]), np.array([7, -100]))] * 2).mask is None


def test_hiding_spares_validation_and_takes_its_share() -> None:
    rows = LabelledRows(Rows([[*range(10, 1010)]]), np.array([4]), 0.3)
    ids, label = rows(0, np.random.default_rng(0))
    assert label == 4
    assert (ids == MASK).mean() == pytest.approx(0.3, abs=0.05)
    assert (ids[ids != MASK] == np.arange(10, 1010)[ids != MASK]).all()
    assert MASK not in rows(0, None)[0]


def test_padding_changes_no_row() -> None:
    config = TextConfig(TransformerConfig(width=16, depth=2, heads=2), context=12)
    encoder = TextEncoder(config, 50).eval()
    rows = [np.arange(6, 6 + length) for length in (3, 9, 1)]
    together = encoder(pad(rows), real(rows))
    for number, row in enumerate(rows):
        alone = encoder(pad([row]), real([row]))
        assert torch.allclose(together.pooled[number], alone.pooled[0], atol=1e-6)
        assert torch.allclose(together.tokens[number, : len(row)], alone.tokens[0], atol=1e-6)


def test_similar_lengths_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 2000)
    rows = Rows([10] * length for length in lengths)
    examples = LabelledRows(rows, np.zeros(len(rows), int), 0.0)
    spent = {}
    for name, known in (("shuffled", None), ("bucketed", rows.lengths)):
        batches = Loader(examples, collate_labelled, 16, seed=0, lengths=known)
        spent[name] = sum(batches[number].ids.numel() for number in range(125))
    assert spent["bucketed"] < 1.1 * lengths.sum() < 1.5 * lengths.sum() < spent["shuffled"]
