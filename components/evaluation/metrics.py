"""Figures for one unit each (an answer, an utterance, a query, a token): `bootstrap` makes means and intervals."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

PUNCTUATION = re.compile(r"[^\w\s']")


def normalised(text: str) -> str:
    """Lower case, punctuation as spaces, single spaces: what is spoken of a sentence."""
    return " ".join(PUNCTUATION.sub(" ", text.lower()).split())


def word_errors(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Substituted, deleted and inserted words of each utterance (Levenshtein, by jiwer), and its words.

    Word error rate is sum / sum; both sides are `normalised`. ValueError for a reference without a word."""
    import jiwer

    references, hypotheses = [normalised(text) for text in references], [normalised(text) for text in hypotheses]
    if "" in references:
        raise ValueError(f"reference {references.index('')} holds no word: leave it out of the split")
    aligned = jiwer.process_words(references, hypotheses).alignments
    errors = [
        sum(max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx) for c in chunks if c.type != "equal")
        for chunks in aligned
    ]
    return np.array(errors), np.array([len(text.split()) for text in references])


def expected_recall(better: Int[np.ndarray, " n"], items: int, drawn: int, k: int = 1) -> Float[np.ndarray, " n"]:
    """Chance that a query finds its right item among the first k of `drawn` items: the right one and a random rest.

    better: how many of the `items` - 1 wrong items score at least as high as the right one. The mean over all possible
    draws is exact (hypergeometric: at most k - 1 better items in a draw of `drawn` - 1), so no draw has to be made;
    with drawn = items it is plain recall@k over all."""
    from scipy.stats import hypergeom

    return hypergeom.cdf(k - 1, items - 1, better, min(drawn, items) - 1)


def sliding_windows(tokens: int, context: int) -> list[tuple[int, int]]:
    """(start, first scored) pairs that score each of `tokens` guesses once, in windows of `context` guesses.

    Guess i sees tokens[start : i + 1] of a row that begins with a start token. Each window after the first moves half a
    context on and scores its second half only: all guesses but the first few see at least half a context."""
    half = max(1, context // 2)
    return [(0, 0), *((start, start + context - half) for start in range(half, tokens - context + half, half))]


def hits(scores: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether the highest score is the label's; accuracy is the mean. Ties go to the first class."""
    return scores.argmax(1) == labels
