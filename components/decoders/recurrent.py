"""A recurrent text decoder, the Transformer's rival: LSTM (Hochreiter & Schmidhuber 1997) or GRU (Cho et al. 2014).

It begins as is known to serve memory best: gates that keep the state open, by a bias of 1 (Gers et al. 2000; Jozefowicz
et al. 2015, section 3.2, for the LSTM's forget gate; here the GRU's update gate, too), orthogonal recurrent matrices
(Saxe et al. 2014), embeddings at scale one. Left out on purpose: chrono initialisation (Tallec & Ollivier 2018), which
has to be told the distance. `loss`, `hidden` and `logits` are the causal decoder's; the output matrix is untied, since
hidden states and embeddings differ in width.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.decoders.loss import vocabulary_loss

Cell = Literal["lstm", "gru"]
CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
KEEPING = 1  # the gate that keeps the state, in torch's order: input, FORGET, cell, output; reset, UPDATE, new
OPEN = 1.0  # that gate's bias
WIDEST = 65536


class RecurrentDecoder(nn.Module):
    """embedding: features of the tokens that go in. width: of the state of each of `depth` layers."""

    def __init__(self, cell: Cell, vocabulary: int, *, embedding: int, width: int, depth: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.cells = CELLS[cell](input_size=embedding, hidden_size=width, num_layers=depth, batch_first=True)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self._initialise()

    def loss(self, ids: Int[Tensor, "b n"], targets: Int[Tensor, "b n"]) -> Float[Tensor, ""]:
        """Mean cross-entropy of `targets` (the token after each of `ids`; loss.IGNORED where none counts), in nats."""
        return vocabulary_loss(self.hidden(ids).flatten(0, 1), self.head.weight, targets.flatten())

    def hidden(self, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The last layer's state after each token."""
        return self.cells(self.embedding(ids))[0]

    def logits(self, hidden: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape vocabulary"]:
        return self.head(hidden)

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.cells.named_parameters():
            gates = parameter.split(self.width)
            if name.startswith("weight_hh"):
                for gate in gates:
                    nn.init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                nn.init.xavier_uniform_(parameter)
            else:
                parameter.zero_()
                if name.startswith("bias_ih"):  # the two biases of a gate add up
                    gates[KEEPING].fill_(OPEN)


def width_for(parameters: int, build: Callable[[int], nn.Module]) -> int:
    """The width whose model, `build(width)`, comes nearest to so many parameters; a wider one must have more."""

    def count(width: int) -> int:
        with torch.device("meta"):  # shapes without data
            return sum(parameter.numel() for parameter in build(width).parameters())

    low, high = 1, WIDEST
    while low < high:  # to the first width that has as many
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) >= parameters else (middle + 1, high)
    return min(range(max(1, low - 1), low + 1), key=lambda width: abs(count(width) - parameters))
