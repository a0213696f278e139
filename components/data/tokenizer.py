"""Byte-level BPE over English and Japanese (Sennrich et al., 2016; bytes as in GPT-2), by `tokenizers`.

Distinctive: text is first cut where the script changes (kanji, hiragana, katakana, Latin, digits), because Japanese
writes no spaces and a whole phrase would else become one token. Every byte is in the alphabet, nothing is normalised:
decoding gives the text back exactly. Encode with `load(folder).encode_batch(texts, add_special_tokens=False)`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

SPECIAL = ("<pad>", "<bos>", "<eos>", "<mask>", "<cls>", "<sep>")
PAD, BOS, EOS, MASK, CLS, SEP = range(len(SPECIAL))  # their ids, in every tokenizer of the project
SMALLEST = len(SPECIAL) + 256  # special tokens and all bytes
LONGEST = 24  # bytes of a token (8 kanji): longer ones would be whole phrases, seen too rarely to learn

PIECES = (  # first match wins; the last two leave no character out
    r"[\p{Han}々〆ヶ]+|\p{Hiragana}+|[\p{Katakana}ー]+"
    r"|'(?:s|t|re|ve|m|ll|d)\b| ?[\p{Latin}\p{M}]+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+| ?\p{L}+|\s+(?!\S)|\s+"
)


def train(texts: Iterable[str], vocabulary: int) -> "tokenizers.Tokenizer":
    """A tokenizer with at most `vocabulary` tokens (fewer where the texts hold too few pairs)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocabulary < SMALLEST:
        raise ValueError(f"vocabulary = {vocabulary}: all bytes and special tokens are {SMALLEST} already")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=LONGEST,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def load(folder: Path) -> "tokenizers.Tokenizer":
    """The tokenizer that the stage wrote to `folder`/tokenizer.json."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))
