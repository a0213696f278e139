"""What a run of the project's decoder, mid-sized, expects of memory and what it then takes; one JSON line.

`python tests/components/training/frugal.py '{"activations": "recompute"}' [WIDTH DEPTH ROWS LENGTH]`
"""

import json
import sys

import torch
from torch import Tensor

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.training.activations import set_activations
from components.training.config import FitConfig
from components.training.memory import Gauge
from components.training.rehearsal import estimate
from components.training.state import State
from components.training.step import train_step
from components.transformer.config import TransformerConfig

VOCABULARY = 8192


class GuessNext:
    better = "lower"

    def __init__(self, model: CausalDecoder) -> None:
        self.model = model

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
        return self.model.loss(batch[:, :-1], batch[:, 1:]), {}

    def validate(self) -> dict[str, float]:
        return {"loss": 0.0}


def main(changes: dict, width: int = 512, depth: int = 6, rows: int = 8, length: int = 256) -> None:
    torch.manual_seed(0)
    fixed = {"steps": 9, "batch_size": rows, "learning_rate": 1e-3, "warmup": 1, "validate_every": 9, "save_every": 9}
    config = FitConfig(**fixed, seed=1, **changes)
    shape = TransformerConfig(width=width, depth=depth, heads=width // 64, dropout=0.1)
    task = GuessNext(CausalDecoder(DecoderConfig(shape, context=length), VOCABULARY))
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
