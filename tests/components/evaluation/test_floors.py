import shutil
import subprocess

import numpy as np
import pytest
import torch

from components.evaluation.features import log_mels, pixels
from components.evaluation.floors import (
    Describer,
    Splits,
    classes_by_features,
    classes_by_words,
    words,
    xz_bits_per_byte,
)


def test_features_floor_finds_a_linear_border_and_not_an_exclusive_or() -> None:
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 6)).astype(np.float32) for n in (300, 100, 400)]

    def accuracy(label: str) -> float:
        y = [(a[:, 0] > 0) if label == "linear" else ((a[:, 0] > 0) ^ (a[:, 1] > 0)) for a in x]
        y = [one.astype(int) for one in y]
        return float((classes_by_features(Splits(*x), Splits(*y)).tuned == y[2]).mean())

    assert accuracy("linear") > 0.95
    assert 0.35 < accuracy("exclusive or") < 0.65


def test_strength_is_chosen_on_validation_data() -> None:
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(n, 60)).astype(np.float32) for n in (60, 2000, 2000)]
    y = [(a[:, 0] + rng.normal(size=len(a)) > 0).astype(int) for a in x]
    floor = classes_by_features(Splits(*x), Splits(*y))
    assert (floor.tuned == y[2]).mean() >= (floor.untuned == y[2]).mean()


def test_words_floor_reads_english_and_japanese() -> None:
    texts = ["a red star", "赤い星がある", "a blue ring", "青い輪がある"] * 6
    labels = np.array([0, 0, 1, 1] * 6)
    unseen = ["the star", "その星", "one ring", "輪だけ"]
    floor = classes_by_words(Splits(texts, texts, unseen), Splits(labels, labels, None))
    assert floor.tuned.tolist() == [0, 0, 1, 1]


def test_terms_are_words_and_single_japanese_characters() -> None:
    terms = words().fit(["It's 2 big stars", "赤い星"]).get_feature_names_out()
    assert {"it", "s", "2", "big", "stars", "big stars", "赤", "い", "星", "赤 い", "い 星"} <= set(terms)


def test_describer_says_what_lies_where() -> None:
    rng = np.random.default_rng(0)
    names = ["red", "green", "blue", "star", "ring", "cross"]

    def draw(count: int) -> tuple[np.ndarray, list[str]]:
        what = np.stack([rng.integers(3, size=count), 3 + rng.integers(3, size=count)], 1)
        seen = np.eye(6, dtype=np.float32)[what].sum(1) + rng.normal(0, 0.1, (count, 6)).astype(np.float32)
        return seen, [" ".join(names[i] for i in row) for row in what]

    (x, texts), (valid_x, valid_texts), (test_x, test_texts) = draw(300), draw(60), draw(60)
    describer = Describer(Splits(x, valid_x, None), Splits(texts, valid_texts, None))
    found = describer.nearest(test_x, sorted(set(texts)))
    assert np.mean([a == b for a, b in zip(found, test_texts, strict=True)]) > 0.95


@pytest.mark.skipif(shutil.which("xz") is None, reason="xz is not installed")
@pytest.mark.parametrize("known", [b"", b"the ring is red. " * 400])
def test_xz_is_the_program_itself(known: bytes) -> None:
    unseen = b"the ring is blue and the star is red. " * 50

    def size(data: bytes) -> int:
        return len(subprocess.run(["xz", "-9e", "--stdout"], input=data, capture_output=True, check=True).stdout)

    assert xz_bits_per_byte(known, unseen) == 8 * (size(known + unseen) - size(known)) / len(unseen)


def test_pixels_shrink_by_means_and_drop_equal_channels() -> None:
    grey = torch.arange(56 * 56).reshape(1, 56, 56).remainder(256).to(torch.uint8).expand(3, -1, -1)
    [row] = pixels([grey])
    means = grey[0].float().reshape(28, 2, 28, 2).mean((1, 3)).flatten() / 255
    assert torch.allclose(torch.from_numpy(row), means, atol=1e-6)
    assert pixels([torch.cat([grey[:2], 255 - grey[2:]])]).shape == (1, 3 * 28 * 28)
    assert pixels([grey[:, :20, :30], grey]).shape == (2, 20 * 28)


def test_log_mels_do_not_depend_on_loudness_or_length() -> None:
    sound = torch.randn(8000, generator=torch.Generator().manual_seed(0)) * 0.5
    loud, quiet, longer = log_mels([(sound, 8000), (sound * 0.1, 8000), (sound.repeat(2), 8000)])
    assert loud.shape == (800,)
    assert np.allclose(loud, quiet, atol=1e-3)
    assert loud.shape == longer.shape
    assert np.allclose(loud.mean(), longer.mean(), atol=0.1)
