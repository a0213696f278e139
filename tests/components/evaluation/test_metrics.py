from itertools import combinations

import numpy as np
import pytest

from components.evaluation.metrics import expected_recall, hits, normalised, sliding_windows, word_errors


def test_word_errors_by_hand_and_in_sum_by_jiwer() -> None:
    import jiwer

    references = ["A big red star.", "there is a small ring at the left", "a ring"]
    hypotheses = ["a big star", "there is is a tall ring at left", ""]
    errors, words = word_errors(references, hypotheses)
    assert errors.tolist() == [1, 3, 2]  # a word lost; one inserted, one replaced, one lost; all lost
    assert words.tolist() == [4, 8, 2]
    whole = jiwer.wer([normalised(text) for text in references], [normalised(text) for text in hypotheses])
    assert errors.sum() / words.sum() == pytest.approx(whole)


def test_empty_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference 1 holds no word"):
        word_errors(["a", "..."], ["a", "b"])


@pytest.mark.parametrize("k", [1, 2])
def test_expected_recall_is_the_mean_over_all_draws(k: int) -> None:
    items, drawn = 7, 4
    for better in range(items):
        wrong = [True] * better + [False] * (items - 1 - better)  # True: scores above the right one
        draws = list(combinations(wrong, drawn - 1))
        share = sum(sum(draw) < k for draw in draws) / len(draws)
        assert expected_recall(np.array([better]), items, drawn, k)[0] == pytest.approx(share)


def test_expected_recall_over_all_items_is_plain_recall() -> None:
    assert expected_recall(np.array([0, 1, 3]), 10, 10).tolist() == [1, 0, 0]
    assert expected_recall(np.array([0, 1, 3]), 10, 99, k=2).tolist() == [1, 1, 0]


@pytest.mark.parametrize("tokens", [1, 5, 8, 9, 12, 13, 40, 41])
def test_windows_score_each_guess_once_with_half_a_context(tokens: int) -> None:
    context = 8
    scored = [
        (guess, guess - start + 1)
        for start, first in sliding_windows(tokens, context)
        for guess in range(first, min(start + context, tokens))
    ]
    assert [guess for guess, _ in scored] == list(range(tokens))
    assert all(min(guess + 1, context // 2) <= seen <= context for guess, seen in scored)


def test_hits() -> None:
    scores = np.array([[0.1, 0.9], [0.6, 0.4], [0.5, 0.5]])
    assert hits(scores, np.array([1, 1, 0])).tolist() == [True, False, True]
