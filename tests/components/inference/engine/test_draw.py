"""Draws: frequencies against the distribution, likeliest tokens, and no say of the neighbours."""

import pytest
import torch
from scipy.stats import chisquare

from components.decoders.config import SamplingConfig
from components.decoders.sampling import distribution
from components.inference.engine.draw import chances, draw_rows

CONFIGS = [
    SamplingConfig(),
    SamplingConfig(temperature=0.0),
    SamplingConfig(temperature=0.7, top_k=5),
    SamplingConfig(temperature=1.3, top_p=0.8),
]


@pytest.mark.parametrize("sampling", [config for config in CONFIGS if config.temperature])
def test_frequencies_follow_the_distribution(sampling):
    torch.manual_seed(0)
    logits, count = 2 * torch.randn(12), 20_000
    drawn = draw_rows(logits.expand(count, 12), [sampling] * count, chances(3, count))
    shares = distribution(logits[None], sampling)[0].double()
    counts = torch.bincount(drawn, minlength=12)
    assert counts[shares == 0].sum() == 0
    likely = shares > 0
    assert chisquare(counts[likely], count * shares[likely] / shares.sum()).pvalue > 0.01


def test_a_row_is_drawn_the_same_among_others():
    torch.manual_seed(0)
    logits, sampling, chance = torch.randn(40, 12), CONFIGS * 10, chances(1, 40)
    together = draw_rows(logits, sampling, chance)
    for row in range(40):
        assert together[row] == draw_rows(logits[row : row + 1], sampling[row : row + 1], chance[row : row + 1])[0]


def test_the_ends_of_the_range_have_chances_above_nothing():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, 4)
    assert draw_rows(logits, [SamplingConfig()] * 2, [0.0, 1 - 2**-53]).tolist() == [1, 2]


def test_a_seed_gives_its_numbers_and_longer_requests_more_of_them():
    assert chances(5, 10) == chances(5, 20)[:10]
    assert chances(5, 10) != chances(6, 10)
