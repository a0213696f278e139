"""Two towers at work: a request is a caption and a picture, each to its vector; a batch fills an index."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from components.contrastive.retrieval import both_ways

METRIC, BETTER = "recall@1", "higher"  # of both ways, among AMONG
PART = "model"  # of what is served, which a variant replaces
ITEMS = "pictures"
CAPTION = "text"
AMONG = 100  # pairs among which each finds its other half


def requests(served: Any, records: Sequence[dict[str, Any]], count: int) -> list[Callable[[], object]]:
    def both(record: dict[str, Any]) -> None:
        served.embed_texts([record[CAPTION]])
        served.embed_images([record])

    return [partial(both, record) for record in records[:count]]


def batch(served: Any, records: Sequence[dict[str, Any]], size: int) -> tuple[Callable[[], object], int]:
    """A batch, and how many items it answers."""
    some = records[:size]
    return partial(served.embed_images, some), len(some)


def quality(served: Any, records: Sequence[dict[str, Any]]) -> float:
    found = []
    for start in range(0, len(records), AMONG):
        some = records[start : start + AMONG]
        captions = [record[CAPTION] for record in some]
        groups = torch.tensor([captions.index(caption) for caption in captions])  # equal captions: each one is right
        found += both_ways(served.embed_images(some), served.embed_texts(captions), groups)
    return (torch.cat(found) == 0).float().mean().item()
