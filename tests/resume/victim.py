"""A small run with everything that could differ after a resume: dropout, fp16's loss scale, Muon, averaged weights,
accumulation, augmentation, workers.

`python tests/resume/victim.py STORE OUT` trains a text classifier on symbols to count; checkpoints in STORE, results in
OUT.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from components.data.loader import Loader
from components.encoders.classifier import Classifier
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.training.fit import fit
from components.training.weights import save_model
from components.transformer.config import TransformerConfig
from tests.resume.kill import CONFIG

SYMBOLS, LENGTH, MASKED = 8, 24, 8


class Sequences:
    """Random symbols, labelled by the commonest one; in training one symbol in ten is masked."""

    def __init__(self, seed: int, count: int) -> None:
        self.ids = np.random.default_rng(seed).integers(SYMBOLS, size=(count, LENGTH))

    def __len__(self) -> int:
        return len(self.ids)

    def __call__(self, index: int, rng: np.random.Generator | None, /) -> tuple[np.ndarray, int]:
        ids = self.ids[index]
        label = int(np.bincount(ids, minlength=SYMBOLS).argmax())
        return (ids if rng is None else np.where(rng.random(LENGTH) < 0.1, MASKED, ids)), label


def collate(examples: list) -> tuple[Tensor, Tensor]:
    return torch.tensor(np.stack([ids for ids, _ in examples])), torch.tensor([label for _, label in examples])


class Counting:
    better = "higher"

    def __init__(self) -> None:
        torch.manual_seed(0)
        shape = TransformerConfig(width=32, depth=1, heads=2, dropout=0.1, positions="learned")
        self.model = Classifier(TextEncoder(TextConfig(shape, LENGTH), SYMBOLS + 1), SYMBOLS, dropout=0.1)
        self.validation = Loader(Sequences(2, 64), collate, 32, seed=0)

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor | float]]:
        logits = self.model(batch[0])
        return cross_entropy(logits, batch[1]), {"accuracy": (logits.argmax(1) == batch[1]).float().mean()}

    def validate(self) -> dict[str, float]:
        right = [(self.model(ids).argmax(1) == labels).float() for ids, labels in self.validation.in_order()]
        return {"accuracy": torch.cat(right).mean().item()}


def main(store: Path, out: Path) -> None:
    torch.set_num_threads(1)  # bits depend on it
    task = Counting()
    loader = Loader(Sequences(1, 200), collate, CONFIG.batch_size, seed=3, workers=CONFIG.workers)
    history = fit(task, loader, CONFIG, checkpoints=store)
    save_model(out, task.model, {"kept": history.step, **history.figures})
    history.write(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
