"""Writes a trained decoder as a folder that transformers loads by itself: models/export/KEY. Seconds.

`AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` need no code of ours. A decoder whose parts
no family of Hugging Face's has (its configuration says which) is refused with what would make it exportable.

Decoders alone, since no reference has the parts of the other models that params.yaml trains: rotary positions in
an encoder of texts, convolutions before an image's patches. Where yours are a reference's, components/interop writes
them: `folder.write` BERT, `vit.write` timm's vision transformer, `clip.describe` and `clip.tensors` open_clip's CLIP.
"""

import shutil
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from flows.params import Reference
from flows.stages.runtime import Stage, StageError, start


@dataclass(frozen=True)
class Params:
    run: Annotated[str, Reference("train_decoder")]  # the decoder's
    threads: Annotated[int, Interval(ge=1)] = 1
    device: Literal["cpu"] = "cpu"


def cost(params: Params) -> str:
    return f"copies the weights of train_decoder {params.run}: seconds"


def run(params: Params, stage: Stage) -> None:
    import torch

    from components.interop.folder import write
    from flows.stages.train_decoder import load

    source = stage.root / "models" / "train_decoder" / params.run
    partial = stage.model.with_name(f".{stage.model.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write(partial, load(source, torch.device("cpu")).decoder, source)
        shutil.rmtree(stage.model, ignore_errors=True)
        partial.rename(stage.model)
    except ValueError as error:
        raise StageError(f"train_decoder {params.run}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


if __name__ == "__main__":
    start(__file__, Params, cost, run)
