"""Retrieval metrics: at what rank the right item is found, and whether it beats its own distractors.

Ties count against the model: a wrong item that scores the same stands before the right one. A collapsed model, which
gives all items one vector, then scores 0 and not 100%.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def ranks(
    queries: Float[Tensor, "n space"],
    candidates: Float[Tensor, "m space"],
    query_groups: Int[Tensor, " n"],
    candidate_groups: Int[Tensor, " m"],
    chunk: int = 1024,
) -> Int[Tensor, " n"]:
    """Rank (0 is best) of each query's best right candidate: wrong ones that score at least as high come before it.

    A candidate is right when its group is the query's: several captions of a picture, or pictures of one caption,
    share a group. `chunk` queries at a time, so that memory holds chunk x m scores. ValueError for a query without
    any right candidate.
    """
    found = []
    for vectors, groups in zip(queries.float().split(chunk), query_groups.split(chunk), strict=True):
        scores = vectors @ candidates.float().T
        right = groups[:, None] == candidate_groups[None, :]
        if not right.any(1).all():
            lost = groups[~right.any(1)][0].item()
            raise ValueError(f"no candidate belongs to group {lost}, which a query has: give every query a right one")
        best = scores.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
        found.append(((scores >= best) & ~right).sum(1))
    return torch.cat(found)


def recall(found: Int[Tensor, " n"], k: int) -> float:
    """Share of queries whose right candidate is among the first k."""
    return (found < k).float().mean().item()


def both_ways(
    images: Float[Tensor, "n space"], texts: Float[Tensor, "n space"], groups: Int[Tensor, " n"], chunk: int = 1024
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Ranks of texts for pictures, and of pictures for texts, over pairs in which equal groups mean equal meaning."""
    return ranks(images, texts, groups, groups, chunk), ranks(texts, images, groups, groups, chunk)


def beats_distractors(
    queries: Float[Tensor, "n space"], right: Float[Tensor, "n space"], distractors: Float[Tensor, "n k space"]
) -> Bool[Tensor, "n k"]:
    """Whether each query's right item scores above each of its own distractors."""
    own = (queries.float() * right.float()).sum(-1, keepdim=True)
    return own > torch.einsum("nd,nkd->nk", queries.float(), distractors.float())
