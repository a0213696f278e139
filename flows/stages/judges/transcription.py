"""Judges a recogniser by its word error rate.

Its linear floor hears a sound as a bag of words (ridge regression from log-mel frames) and says the sentence of the
training data that is nearest to it; chance says nothing at all, which is an error a word.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from components.data.records import decode_sound
from components.evaluation.bootstrap import bootstrap
from components.evaluation.features import log_mels
from components.evaluation.floors import Describer, Splits
from components.evaluation.metrics import word_errors
from components.evaluation.pictures import bars
from components.evaluation.results import Judgement, Result

FRAMES = 40  # of the floor: sentences are longer than single words
FIRST, WORST = 12, 12  # shown transcripts


class Transcribes(Protocol):
    """A trained recogniser with its own preparation of records."""

    def transcribe(self, records: Sequence[dict[str, Any]]) -> list[str]: ...


def judge(model: Transcribes, data: Splits, samples: int, seed: int) -> Judgement:
    """data: Records of each split, sounds with their `text`."""
    records = list(data.test)
    references = [record["text"] for record in records]
    transcripts = model.transcribe(records)
    errors, words = word_errors(references, transcripts)
    floor_errors, _ = word_errors(references, _floor(data, records))
    result = Result(
        "word_error_rate",
        "lower",
        bootstrap(errors, words, samples, seed),
        floor=float(floor_errors.sum() / words.sum()),
        chance=1.0,
        count=len(records),
        further={"words": int(words.sum()), "sentences_without_error": float((errors == 0).mean())},
    )
    voices = np.array([record.get("voice") or record.get("speaker") or "all" for record in records])
    rates = {str(voice): float(errors[voices == voice].sum() / words[voices == voice].sum()) for voice in set(voices)}
    return Judgement(
        [result],
        bars(rates, result.interval.value, "word error rate by voice"),
        _shown(records, transcripts, errors, words),
    )


def _floor(data: Splits, test: list[dict[str, Any]]) -> list[str]:
    def hear(records: Sequence[dict[str, Any]]) -> np.ndarray:
        return log_mels((decode_sound(record["sound"]) for record in records), FRAMES)

    texts = Splits([record["text"] for record in data.train], [record["text"] for record in data.valid], None)
    describer = Describer(Splits(hear(data.train), hear(data.valid), None), texts)
    return describer.nearest(hear(test), list(dict.fromkeys([*texts.train, *texts.valid])))


def _shown(
    records: list[dict[str, Any]], transcripts: list[str], errors: np.ndarray, words: np.ndarray
) -> list[dict[str, Any]]:
    """The first of the split, as they come, then the worst of the rest."""
    worst = np.argsort(-errors[FIRST:] / words[FIRST:], kind="stable")[:WORST] + FIRST
    return [
        {
            "key": records[i]["key"],
            "voice": records[i].get("voice", ""),
            "reference": records[i]["text"],
            "transcript": transcripts[i],
            "errors": int(errors[i]),
            "words": int(words[i]),
        }
        for i in [*range(min(FIRST, len(records))), *worst.tolist()]
    ]
