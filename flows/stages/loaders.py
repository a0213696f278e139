"""A folder that a training stage wrote, loaded for serving as its serve.json says: by which stage, and which variant.

No stage of the graph. Heavy imports come with the stage that is asked for, so that a recogniser loads no towers.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from components.inference.server.served import Kind, Served, about

if TYPE_CHECKING:
    import torch

STAGES: dict[str, Kind] = {
    "train_decoder": "decoder",
    "train_clip": "search",
    "train_speech": "recogniser",
    "finetune_text": "classifier",
    "train_image": "classifier",
}


def load(folder: Path, device: "torch.device") -> Served:
    """The model of a folder, in eval mode, as the variant that its serve.json names.

    Raises:
        ValueError: serve.json is missing, damaged, or names an unknown stage; or the files are not the stage's.
    """
    said = about(folder)
    kind = STAGES.get(said.stage)
    if kind is None:
        raise ValueError(f"{folder}: stage {said.stage!r} is none of {', '.join(STAGES)}")
    if kind != said.kind:
        raise ValueError(f"{folder}: the stage {said.stage} makes a {kind}, and serve.json says {said.kind}")
    from components.inference.variants import apply

    model = import_module(f"flows.stages.{said.stage}").load(folder, device)
    if kind == "recogniser" and model.head != "ctc":
        raise ValueError(f"{folder}: a recogniser needs the head ctc, this one has {model.head}")
    module = "decoder" if kind == "decoder" else "model"
    setattr(model, module, apply(getattr(model, module), said.variant, folder))
    return Served(said, model)
