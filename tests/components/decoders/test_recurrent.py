"""The recurrent decoder against the cells' equations written out, how it begins, and the search for its width."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.decoders.recurrent import Cell, RecurrentDecoder, width_for

IDS = torch.randint(11, (3, 7), generator=torch.Generator().manual_seed(1))


def decoder(cell: Cell) -> RecurrentDecoder:
    torch.manual_seed(0)
    return RecurrentDecoder(cell, 11, embedding=5, width=6, depth=2)


def lstm_cell(tokens: Tensor, state: tuple[Tensor, Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Hochreiter & Schmidhuber's, with Gers et al.'s forget gate."""
    hidden, memory = state
    enter, forget, candidate, leave = _gates(tokens, hidden, weights).chunk(4, dim=1)
    memory = forget.sigmoid() * memory + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * memory.tanh(), memory


def gru_cell(tokens: Tensor, state: tuple[Tensor, Tensor], weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Cho et al.'s, the reset gate after the product as cuDNN has it."""
    hidden, _ = state
    given, own = (
        F.linear(x, w, b).chunk(3, dim=1) for x, w, b in ((tokens, weights[0], weights[2]), (hidden, *weights[1::2]))
    )
    reset, update = ((a + b).sigmoid() for a, b in zip(given[:2], own[:2], strict=True))
    hidden = update * hidden + (1 - update) * (given[2] + reset * own[2]).tanh()
    return hidden, hidden


def _gates(tokens: Tensor, hidden: Tensor, weights: list[Tensor]) -> Tensor:
    return F.linear(tokens, weights[0], weights[2]) + F.linear(hidden, weights[1], weights[3])


@pytest.mark.parametrize(("cell", "step"), [("lstm", lstm_cell), ("gru", gru_cell)])
def test_it_is_the_cell_token_by_token(cell: Cell, step) -> None:
    model = decoder(cell)
    tokens = list(model.embedding(IDS).unbind(1))
    for layer in range(2):
        weights = [
            getattr(model.cells, f"{kind}_l{layer}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]
        state = (torch.zeros(3, 6), torch.zeros(3, 6))
        for place, token in enumerate(tokens):
            state = step(token, state, weights)
            tokens[place] = state[0]
    torch.testing.assert_close(model.hidden(IDS), torch.stack(tokens, 1))
    torch.testing.assert_close(model.logits(model.hidden(IDS)), torch.stack(tokens, 1) @ model.head.weight.T)


def test_the_loss_is_the_mean_cross_entropy_of_what_counts() -> None:
    model = decoder("lstm")
    targets = IDS.roll(-1, dims=1)
    targets[:, -1] = -100
    logits = model.logits(model.hidden(IDS)).flatten(0, 1)
    torch.testing.assert_close(model.loss(IDS, targets), F.cross_entropy(logits, targets.flatten()))


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3)])
def test_it_begins_with_open_gates_and_recurrence_that_keeps_lengths(cell: Cell, gates: int) -> None:
    """The gate that multiplies the old state is the second in torch's order, as the cells above show."""
    model = decoder(cell)
    for layer in range(2):
        bias = getattr(model.cells, f"bias_ih_l{layer}") + getattr(model.cells, f"bias_hh_l{layer}")
        assert [gate.unique().tolist() for gate in bias.split(6)] == [[float(place == 1)] for place in range(gates)]
        for gate in getattr(model.cells, f"weight_hh_l{layer}").split(6):
            torch.testing.assert_close(gate @ gate.T, torch.eye(6))


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_width_is_the_nearest_of_all(cell: Cell) -> None:
    def build(width: int) -> RecurrentDecoder:
        return RecurrentDecoder(cell, 11, embedding=5, width=width, depth=2)

    counts = {width: sum(each.numel() for each in build(width).parameters()) for width in range(1, 60)}
    for wanted in (1, counts[7], counts[7] + 1, counts[30] - 3, (counts[30] + counts[31]) // 2 + 1, 12345):
        found = width_for(wanted, build)
        assert abs(counts[found] - wanted) == min(abs(count - wanted) for count in counts.values())
