"""Moving batches, and generators that are a function of the position."""

from collections import namedtuple
from dataclasses import dataclass

import torch
from torch import Tensor

from components.training.device import deterministic, move, reseed

CPU, META = torch.device("cpu"), torch.device("meta")  # meta stands for an accelerator


@dataclass(frozen=True)
class Pair:
    image: Tensor
    text: str


def test_every_tensor_of_a_batch_moves() -> None:
    point = namedtuple("point", ["x", "y"])
    one = torch.ones(1)
    moved = move({"a": [one, (one, 3)], "b": Pair(one, "text"), "c": point(one, None)}, META)
    tensors = [moved["a"][0], moved["a"][1][0], moved["b"].image, moved["c"].x]
    assert all(tensor.device == META for tensor in tensors)
    assert (moved["a"][1][1], moved["b"].text, moved["c"].y) == (3, "text", None)
    assert type(moved["c"]) is point


def test_a_batch_on_the_cpu_is_left_as_it_is() -> None:
    batch = [torch.ones(1)]
    assert move(batch, CPU) is batch


def test_the_position_decides_what_is_drawn() -> None:
    draws = []
    for position in ((1, 2, 0), (1, 2, 1), (12, 0), (1, 2, 0)):
        reseed(CPU, *position)
        draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_deterministic_kernels_are_chosen_inside_only() -> None:
    with deterministic():
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
