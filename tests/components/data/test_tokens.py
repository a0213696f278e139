"""The tokenizer and token files."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.data import tokenizer, tokens

TEXTS = ["左上に小さい赤い丸、右に大きい青い星があります", "a small red circle at the top left and it's 42"] * 20
TRAINED = tokenizer.train(TEXTS, 400)


def encode(text: str) -> list[int]:
    return TRAINED.encode(text, add_special_tokens=False).ids


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    assert TRAINED.decode(encode(text), skip_special_tokens=False) == text


def test_special_tokens_have_their_ids() -> None:
    ids = [TRAINED.token_to_id(token) for token in tokenizer.SPECIAL]
    assert ids == [tokenizer.PAD, tokenizer.BOS, tokenizer.EOS, tokenizer.MASK, tokenizer.CLS, tokenizer.SEP]
    assert ids == list(range(6))


def test_tokens_do_not_cross_scripts() -> None:
    pieces = [TRAINED.decode([token]) for token in encode("左上に小さい赤い丸")]
    assert pieces == ["左上", "に", "小", "さい", "赤", "い", "丸"]


def test_training_again_gives_the_same(tmp_path: Path) -> None:
    TRAINED.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer.load(tmp_path).to_str() == tokenizer.train(TEXTS, 400).to_str()


def test_a_vocabulary_without_all_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="262 already"):
        tokenizer.train([], 261)


@pytest.mark.parametrize("separator", [None, tokenizer.EOS])
def test_packed_texts(tmp_path: Path, separator: int | None) -> None:
    packed = tokens.pack(iter(TEXTS), TRAINED, tmp_path / "x.npy", separator)
    assert packed.dtype == np.uint16
    end = [] if separator is None else [separator]
    assert packed.tolist() == [token for text in TEXTS for token in encode(text) + end]
    assert isinstance(tokens.read(tmp_path / "x.npy"), np.memmap)
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]


def test_windows_cover_the_corpus() -> None:
    windows = tokens.Windows(np.arange(100, dtype=np.uint16), 8)
    assert len(windows) == 12
    assert np.concatenate([windows(i, None)[:-1] for i in range(12)]).tolist() == list(range(96))
    rng = np.random.default_rng(0)
    for i in [*range(12)] * 20:
        window = windows(i, rng)
        assert window.dtype == np.int64
        assert len(window) == 9
        assert np.all(np.diff(window) == 1)
        assert window[0] - i * 8 in range(-4, 8)
    with pytest.raises(ValueError, match="too few"):
        tokens.Windows(np.arange(8), 8)
