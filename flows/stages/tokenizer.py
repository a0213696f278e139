"""Byte-level BPE over the train texts of an English and a Japanese source, to data/tokenizers/KEY/tokenizer.json.

Costs about 5 s for 5 MB of text.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from flows.params import Reference
from flows.stages.runtime import Stage, start


@dataclass(frozen=True)
class Params:
    english: Annotated[str, Reference("sources")]  # all their texts are read: fields text, text_ja, ...
    japanese: Annotated[str, Reference("sources")]  # may be the same source
    vocabulary: Annotated[int, Interval(ge=262, le=2**20)]  # tokens at most


def cost(params: Params) -> str:
    return f"{params.vocabulary} tokens from {params.english} and {params.japanese}: seconds, 1 GiB at most"


def run(params: Params, stage: Stage) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one thread, as declared
    from components.data.tokenizer import train

    texts = {name: list(_texts(stage.root, name)) for name in dict.fromkeys((params.english, params.japanese))}
    tokenizer = train((text for some in texts.values() for text in some), params.vocabulary)
    target = stage.root / "data" / "tokenizers" / stage.key
    partial = target.with_name(f".{stage.key}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer.save(str(partial / "tokenizer.json"))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    metrics: dict[str, float] = {"vocabulary": tokenizer.get_vocab_size()}
    for name, some in texts.items():
        sample = some[:: max(1, len(some) // 1000)]
        encoded = tokenizer.encode_batch_fast(sample, add_special_tokens=False)
        size = sum(len(text.encode()) for text in sample)
        metrics[f"bytes_per_token_{name}"] = round(size / sum(len(one.ids) for one in encoded), 3)
    stage.write_metrics(metrics)
    print("  " + ", ".join(f"{name} {value}" for name, value in metrics.items()))


def _texts(root: Path, source: str) -> Iterator[str]:
    from components.data.records import Records

    data = root / "data"
    for record in Records(data / "shards" / source / "train", data / "index" / source / "train"):
        yield from (value for name, value in record.items() if name.startswith("text") and isinstance(value, str))


if __name__ == "__main__":
    start(__file__, Params, cost, run)
