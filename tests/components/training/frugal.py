"""What a run of a mid-sized decoder expects of memory and what it then takes; one JSON line.

`python tests/components/training/frugal.py '{"activations": "recompute"}' [WIDTH DEPTH ROWS LENGTH]`
"""

import json
import sys

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from components.decoders.loss import vocabulary_loss
from components.training.activations import run_block, set_activations
from components.training.config import Activations, FitConfig
from components.training.memory import Gauge
from components.training.rehearsal import estimate
from components.training.state import State
from components.training.step import train_step

VOCABULARY = 8192


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        b, n, d = tokens.shape
        q, k, v = self.qkv(self.norms[0](tokens)).view(b, n, 3, d // 64, 64).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, d)
        tokens = tokens + self.dropout(self.out(attended))
        return tokens + self.dropout(self.narrow(nn.functional.gelu(self.widen(self.norms[1](tokens)))))


class Decoder(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.activations: Activations = "keep"
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, ids: Tensor) -> Tensor:
        tokens = self.embedding(ids)
        for block in self.blocks:
            tokens = run_block(self.activations, block, tokens)
        return tokens


class GuessNext:
    better = "lower"

    def __init__(self, model: Decoder) -> None:
        self.model = model

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        hidden = self.model(batch[:, :-1]).flatten(0, 1)
        return vocabulary_loss(hidden, self.model.embedding.weight, batch[:, 1:].flatten()), {}

    def validate(self) -> dict[str, float]:
        return {"loss": 0.0}


def main(changes: dict, width: int = 512, depth: int = 6, rows: int = 8, length: int = 256) -> None:
    torch.manual_seed(0)
    fixed = {"steps": 9, "batch_size": rows, "learning_rate": 1e-3, "warmup": 1, "validate_every": 9, "save_every": 9}
    config = FitConfig(**fixed, seed=1, **changes)
    task = GuessNext(Decoder(width, depth))
    set_activations(task.model, config.activations)
    batch = torch.randint(VOCABULARY, (rows, length + 1))
    expected = estimate(task, batch, config)
    gauge = Gauge(torch.device("cpu"))
    state = State.begin(task.model, config)
    for _ in range(3):
        train_step(task, state, config, iter([batch] * config.accumulation))
    measured = expected.weights + gauge.peak()
    print(json.dumps({"expected": expected.peak, "measured": measured, "parts": str(expected)}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), *map(int, sys.argv[2:]))
