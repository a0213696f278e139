"""Models from the folders that the stage optimise wrote: plain as trained, or as the variant that is served."""

from pathlib import Path
from typing import Any

import torch

from components.inference.server.served import About, about
from components.inference.variants import apply

# What a record holds that a model of a stage reads, and what it is judged by.
NEEDS = {
    "finetune_text": ("text", "label"),
    "train_image": ("image", "label"),
    "train_clip": ("image", "text"),
    "train_speech": ("sound", "text"),
    "train_decoder": ("text",),
}


def plain(folder: Path, device: torch.device) -> tuple[About, Any]:
    """What serve.json says, and what the training stage's own `load` builds. ValueError: it is not served."""
    said = about(folder)
    if said.stage == "finetune_text":
        from flows.stages.finetune_text import load
    elif said.stage == "train_image":
        from flows.stages.train_image import load
    elif said.stage == "train_speech":
        from flows.stages.train_speech import load
    elif said.stage == "train_clip":
        from flows.stages.train_clip import load
    elif said.stage == "train_decoder":
        from flows.stages.train_decoder import load
    else:
        raise ValueError(
            f"{folder}: serve.json names the stage {said.stage!r}, which trains no model that is known here"
        )
    return said, load(folder, device)


def served(folder: Path, device: torch.device) -> tuple[About, Any]:
    """The same, as its variant."""
    said, model = plain(folder, device)
    part = "decoder" if said.kind == "decoder" else "model"
    setattr(model, part, apply(getattr(model, part), said.variant, folder))
    return said, model


def embed(said: About, model: Any, records: list[dict[str, Any]]) -> torch.Tensor:
    """A vector a record, float32 [n, d]: what the encoder makes of it. ValueError for a decoder, which has none."""
    if said.kind == "decoder":
        raise ValueError("a decoder has no encoder: name a classifier's, a recogniser's or the towers' folder")
    pictures = "image" in records[0]
    medium = "text" if said.kind == "search" and not pictures else NEEDS[said.stage][0]  # towers read both
    if medium not in records[0]:
        raise ValueError(f"a model of {said.stage} reads the field {medium}, and records hold {', '.join(records[0])}")
    if said.kind == "search":
        return (model.embed_images(records) if pictures else model.embed_texts([r["text"] for r in records])).cpu()
    seen: list[torch.Tensor] = []
    hook = model.model.encoder.register_forward_hook(lambda _module, _inputs, encoded: seen.append(encoded.pooled))
    (model.classify if said.kind == "classifier" else model.transcribe)(records)
    hook.remove()
    return torch.cat(seen).float().cpu()
