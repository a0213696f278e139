"""Retrieval metrics on similarities made by hand."""

import pytest
import torch

from components.contrastive.retrieval import beats_distractors, both_ways, ranks, recall

SCORES = torch.tensor(
    [
        [0.9, 0.1, 0.2, 0.3],
        [0.8, 0.7, 0.1, 0.2],
        [0.5, 0.6, 0.4, 0.7],
        [0.0, 0.3, 0.3, 0.3],
    ]
)
ONE_HOT = torch.eye(4)  # with one-hot candidates, a query's vector is its row of scores
PLACES = torch.arange(4)


@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_ranks_by_hand(chunk):
    found = ranks(SCORES, ONE_HOT, PLACES, PLACES, chunk)
    assert found.tolist() == [0, 1, 3, 2]  # in the last row two wrong ones tie with the right one, and count
    assert recall(found, 1) == 0.25
    assert recall(found, 3) == 0.75


def test_any_candidate_of_the_group_counts_and_none_of_it_stands_in_the_way():
    groups = torch.tensor([0, 1, 1, 2])
    assert ranks(SCORES, ONE_HOT, groups, groups).tolist() == [0, 1, 1, 2]


def test_both_ways_is_the_similarity_and_its_transpose():
    images, texts = both_ways(SCORES, ONE_HOT, PLACES)
    assert images.tolist() == [0, 1, 3, 2]
    assert texts.tolist() == [0, 0, 0, 2]


def test_a_collapsed_model_finds_nothing():
    same = torch.ones(6, 4)
    assert recall(both_ways(same, same, torch.arange(6))[0], 5) == 0.0


def test_perfect_pairs_are_all_first():
    vectors = torch.nn.functional.normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    assert [recall(found, 1) for found in both_ways(vectors, vectors, torch.arange(50))] == [1.0, 1.0]


def test_a_query_without_a_right_candidate_is_refused():
    with pytest.raises(ValueError, match="no candidate belongs to group 3"):
        ranks(SCORES, ONE_HOT[:3], PLACES, PLACES[:3])


def test_own_distractors():
    queries = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    right = torch.tensor([[0.9, 0.0], [0.5, 0.0], [0.0, 0.5]])
    distractors = torch.tensor([[[0.8, 9.0], [0.1, 0.0]], [[0.4, 0.0], [0.6, 0.0]], [[0.0, 0.5], [0.0, 0.0]]])
    beaten = beats_distractors(queries, right, distractors)
    assert beaten.tolist() == [[True, True], [True, False], [False, True]]  # a tie loses
