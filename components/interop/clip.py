"""open_clip's CLIP (Radford et al. 2021): vision transformer, causal text tower, and a common space.

Settings are those of the open_clip_config.json that lies beside its weights. Two towers of ours are made of them by
whoever trains such: `shape` says of what, `fill` puts weights in, `describe` and `tensors` give them back.

open_clip reads a text's vector where the highest number of a row stands, its end token. Ours takes the last real token
of a mask: `real` gives the mask that makes them one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from components.encoders.image import ImageEncoder
from components.encoders.image_config import ImageConfig
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.interop.layout import Entry, Layout, same, to_theirs
from components.interop.layout import fill as fill_model
from components.interop.patches import BIAS, POSITIONS, front, without_bias
from components.interop.settings import exportable, known, number, only
from components.training.weights import weights
from components.transformer.config import TransformerConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's, which open_clip takes where none is told
DEVIATION = (0.26862954, 0.26130258, 0.27577711)
MODEL = {"quick_gelu": False, "init_logit_scale": None, "custom_text": False}
BOTH = {"width": 0, "layers": 0, "mlp_ratio": 4.0}
IMAGE = BOTH | {"image_size": 224, "patch_size": 16, "head_width": 64, "no_ln_pre": False, "patch_dropout": 0.0}
TEXT = BOTH | {"context_length": 77, "vocab_size": 49408, "heads": 8}
ONLY_IMAGE = {"pool_type": "tok", "pos_embed_type": "learnable", "attentional_pool": False, "ls_init_value": None}
ONLY_TEXT = {"pool_type": "argmax", "no_causal_mask": False, "embed_cls": False, "proj_bias": False}
ONLY_TEXT |= {"proj_type": "linear", "ls_init_value": None}
UNUSED_TEXT = {"pad_id": 0, "eos_id": 2, "tokenizer_kwargs": None, "hf_tokenizer_name": None}
WANTED = {
    "positions": "learned",
    "norm": "layer",
    "norm_place": "pre",
    "norm_epsilon": 1e-5,
    "bias": "all",
    "activation": ("gelu", "quick_gelu"),
    "key_value_heads": None,
    "head_features": None,
    "head_norm": False,
}


@dataclass(frozen=True)
class Shape:
    """What two towers are made of."""

    image: ImageConfig
    text: TextConfig
    vocabulary: int
    space: int  # features of the common space


def shape(settings: Mapping[str, Any]) -> Shape:
    """ValueError in one line for what ours cannot follow."""
    model, pixels = settings.get("model_cfg"), settings.get("preprocess_cfg") or {}
    parts = ("vision_cfg", "text_cfg")
    if not isinstance(model, Mapping) or not all(isinstance(model.get(part), Mapping) for part in parts):
        raise ValueError("model_cfg with vision_cfg and text_cfg is missing: these are no settings of open_clip's CLIP")
    known(model, MODEL | dict.fromkeys(("embed_dim", *parts)), "model_cfg")
    only(model, {"custom_text": False})
    image, text = model["vision_cfg"], model["text_cfg"]
    known(image, IMAGE | ONLY_IMAGE, "vision_cfg")
    known(text, TEXT | ONLY_TEXT | UNUSED_TEXT, "text_cfg")
    only(image, ONLY_IMAGE)
    only(text, ONLY_TEXT)
    image, text = IMAGE | dict(image), TEXT | dict(text)
    quick = bool(model.get("quick_gelu", False))
    seen = _tower(image, number(image, "width") // number(image, "head_width"), quick)
    mean, deviation = (tuple(pixels.get(name, usual)) for name, usual in (("mean", MEAN), ("std", DEVIATION)))
    return Shape(
        ImageConfig(
            seen,
            size=number(image, "image_size"),
            patch=number(image, "patch_size"),
            pool="class",
            norm_first=not image["no_ln_pre"],
            mean=mean,
            deviation=deviation,
        ),
        TextConfig(
            _tower(text, number(text, "heads"), quick), number(text, "context_length"), causal=True, pool="last"
        ),
        number(text, "vocab_size"),
        number(model, "embed_dim"),
    )


def fill(
    towers: nn.Module, settings: Mapping[str, Any], tensors: Mapping[str, Tensor], source: object = "the state dict"
) -> None:
    """Put open_clip's weights into two towers. ValueError where the towers or the weights are not of the settings."""
    wanted, has = _describe(shape(settings)), _describe(_shape(towers))
    if wanted != has:
        raise ValueError(f"the towers are of other settings than {source}: {has} there, and {wanted} is wanted")
    fill_model(towers, _layout(_shape(towers)), tensors, source, absent=[f"image.{BIAS}"])


def describe(towers: nn.Module) -> dict[str, Any]:
    """Of open_clip_config.json. ValueError naming the field of ours that open_clip's CLIP cannot represent."""
    return _describe(_shape(towers))


def tensors(towers: nn.Module) -> dict[str, Tensor]:
    """open_clip's state dict. Its patch projection has no bias, so ours goes into the patches' positions."""
    has = _shape(towers)
    _describe(has)
    return to_theirs(_layout(has), without_bias("image.", has.image, weights(towers)))


def real(ids: Int[Tensor, "b n"]) -> Bool[Tensor, "b n"]:
    """True up to the first of each row's highest number: the end token, of which open_clip takes the text's vector."""
    return torch.arange(ids.shape[1], device=ids.device) <= ids.argmax(1, keepdim=True)


def _tower(sizes: dict[str, Any], heads: int, quick: bool) -> TransformerConfig:
    width = number(sizes, "width")
    return TransformerConfig(
        width=width,
        depth=number(sizes, "layers"),
        heads=heads,
        expansion=int(width * sizes["mlp_ratio"]) / width,
        activation="quick_gelu" if quick else "gelu",
        positions="learned",
        initialise="constant",
    )


def _shape(towers: nn.Module) -> Shape:
    image, text = (dict(towers.named_children()).get(name) for name in ("image", "text"))
    if not isinstance(image, ImageEncoder) or not isinstance(text, TextEncoder):
        raise ValueError(
            f"towers of {type(image).__name__} and {type(text).__name__} are none of open_clip's CLIP, "
            "which asks for the own ImageEncoder and TextEncoder"
        )
    space = towers.get_submodule("project_image").get_parameter("weight").shape[0]
    return Shape(image.config, text.config, text.embedding.num_embeddings, space)


def _describe(has: Shape) -> dict[str, Any]:
    image, text = has.image, has.text
    for name, tower in (("image", image.transformer), ("text", text.transformer)):
        exportable(tower, WANTED, f"open_clip's {name} tower")
    fields = {"image.pool": image.pool, "image.stem": image.stem, "text.pool": text.pool, "text.causal": text.causal}
    fields |= {"text.segments": text.segments, "text.activation": text.transformer.activation}
    wanted = {"image.pool": "class", "image.stem": "patches", "text.pool": "last", "text.causal": True}
    wanted |= {"text.segments": 0, "text.activation": image.transformer.activation}
    if wrong := next((name for name, value in wanted.items() if fields[name] != value), None):
        raise ValueError(f"{wrong} {fields[wrong]} is none of open_clip's CLIP, which asks for {wanted[wrong]}")
    seen, read = (
        {"width": tower.width, "layers": tower.depth, "mlp_ratio": tower.expansion}
        for tower in (image.transformer, text.transformer)
    )
    seen |= {"image_size": image.size, "patch_size": image.patch, "head_width": image.transformer.features}
    read |= {"context_length": text.context, "vocab_size": has.vocabulary, "heads": text.transformer.heads}
    return {
        "model_cfg": {
            "embed_dim": has.space,
            "quick_gelu": image.transformer.activation == "quick_gelu",
            "vision_cfg": seen | {"no_ln_pre": not image.norm_first},
            "text_cfg": read,
        },
        "preprocess_cfg": {"mean": list(image.mean), "std": list(image.deviation)},
    }


def _layout(has: Shape) -> Layout:
    token = Entry("image.summary", ("visual.class_embedding",))
    places = Entry(f"image.{POSITIONS}", ("visual.positional_embedding",))
    entries = [
        *front("image.", has.image, "visual.conv1", token, places),
        *same("image.stack.norm_first", "visual.ln_pre"),
        *same("image.stack.norm", "visual.ln_post"),
        Entry("project_image.weight", ("visual.proj",), transposed=True),
        Entry("text.embedding.weight", ("token_embedding.weight",)),
        Entry(f"text.{POSITIONS}", ("positional_embedding",)),
        *same("text.stack.norm", "ln_final"),
        Entry("project_text.weight", ("text_projection",), transposed=True),
        Entry("logarithm_of_scale", ("logit_scale",)),
    ]
    for ours, theirs, config in (
        ("image", "visual.transformer", has.image.transformer),
        ("text", "transformer", has.text.transformer),
    ):
        for block in range(config.depth):
            entries += _block(f"{ours}.stack.blocks.{block}", f"{theirs}.resblocks.{block}")
    return Layout(entries)


def _block(ours: str, theirs: str) -> list[Entry]:
    return [
        *same(f"{ours}.attention_norm", f"{theirs}.ln_1"),
        Entry(f"{ours}.attention.project_in.weight", (f"{theirs}.attn.in_proj_weight",)),
        Entry(f"{ours}.attention.project_in.bias", (f"{theirs}.attn.in_proj_bias",)),
        *same(f"{ours}.attention.project_out", f"{theirs}.attn.out_proj"),
        *same(f"{ours}.feed_forward_norm", f"{theirs}.ln_2"),
        *same(f"{ours}.feed_forward.project_in", f"{theirs}.mlp.c_fc"),
        *same(f"{ours}.feed_forward.project_out", f"{theirs}.mlp.c_proj"),
    ]
