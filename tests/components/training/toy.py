"""Regressions that train in milliseconds, shared by these tests."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from components.training.activations import run_block
from components.training.config import Activations, FitConfig

Batch = tuple[Tensor, Tensor]


class Regression:
    """Predict the sum of four numbers."""

    better = "lower"

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = self.make(dropout)

    def make(self, dropout: float) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Dropout(dropout), nn.Linear(8, 1))

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        inputs, targets = batch
        loss = mse_loss(self.model(inputs), targets)
        return loss, {"error": loss.detach().sqrt()}

    def validate(self) -> dict[str, float]:
        inputs = torch.linspace(-1, 1, 32).view(8, 4)
        return {"loss": mse_loss(self.model(inputs), inputs.sum(1, keepdim=True)).item()}


class Stacked(nn.Module):
    """A stem, blocks that can compute their activations again, and a head; as the project's models are named."""

    def __init__(self, dropout: float, depth: int = 2, width: int = 8) -> None:
        super().__init__()
        self.activations: Activations = "keep"
        self.stem = nn.Linear(4, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for block in self.blocks:
            hidden = hidden + run_block(self.activations, block, hidden)
        return self.head(hidden)


class StackedRegression(Regression):
    def make(self, dropout: float) -> nn.Module:
        return Stacked(dropout)


def batches(size: int) -> Callable[[int], Iterator[Batch]]:
    """Examples whose number alone decides what they are: batches of 2 hold those of batches of 1 in pairs."""

    def example(number: int) -> Tensor:
        return torch.randn(4, generator=torch.Generator().manual_seed(number))

    def stream(start: int) -> Iterator[Batch]:
        while True:
            inputs = torch.stack([example(number) for number in range(start * size, (start + 1) * size)])
            yield inputs, inputs.sum(1, keepdim=True)
            start += 1

    return stream


def config(**changes) -> FitConfig:
    return FitConfig(
        **{
            "steps": 20,
            "batch_size": 4,
            "learning_rate": 0.01,
            "warmup": 3,
            "validate_every": 6,
            "save_every": 5,
            "seed": 1,
            "log_every": 3,
        }
        | changes
    )


def equal(first: nn.Module, second: nn.Module) -> bool:
    """The same weights to the bit."""
    there = second.state_dict()
    return all(torch.equal(value, there[name]) for name, value in first.state_dict().items())
