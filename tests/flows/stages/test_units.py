"""What the shipped tasks say that a batch holds, which is shown a second: padding never counts."""

import torch

from components.data.text import LabelledBatch, MaskedBatch
from components.encoders.speech_config import FeaturesConfig, SpeechConfig
from components.training.task import Measured
from components.transformer.config import TransformerConfig
from flows.stages.finetune_text import ClassifyTexts
from flows.stages.pretrain_text import GuessMasked
from flows.stages.train_decoder import GuessNext
from flows.stages.train_speech import Hears, LearnToHear

IDS = torch.zeros(2, 5, dtype=torch.long)
MASK = torch.arange(5) < torch.tensor([[5], [3]])


def units(task, batch) -> dict[str, int]:
    assert isinstance(task, Measured)
    return task.units(batch)


def test_texts_are_counted_in_real_tokens() -> None:
    guess, classify = GuessMasked(None, None), ClassifyTexts(None, None, 0.0, 1.0)  # type: ignore[arg-type]
    for mask, count in ((None, 10), (MASK, 8)):
        assert units(guess, MaskedBatch(IDS, mask, IDS)) == {"tokens": count}
        assert units(classify, LabelledBatch(IDS, mask, IDS[:, 0])) == {"tokens": count}


def test_a_decoder_counts_the_tokens_that_it_guesses() -> None:
    assert units(GuessNext(None, None, 1.0), IDS) == {"tokens": 8}  # type: ignore[arg-type]


def test_sounds_are_counted_in_frames() -> None:
    """Of 10 ms: half a second and a quarter."""
    shape = TransformerConfig(width=16, depth=1, heads=2)
    hears = Hears("class", SpeechConfig(shape, 1.0, features=FeaturesConfig(rate=8000, mels=16)), ["one", "two"])
    batch = torch.zeros(2, 4000), torch.tensor([4000, 2000]), torch.zeros(2, 1, dtype=torch.long), torch.ones(2).long()
    assert units(LearnToHear(hears, []), batch) == {"frames": 75}
