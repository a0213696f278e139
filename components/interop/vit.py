"""timm's vision transformers (Dosovitskiy et al. 2021), as `timm.create_model(architecture, **model_args)` builds them.

Settings are those of the config.json that timm keeps beside weights: architecture, model_args, num_classes and
pretrained_cfg, whose mean and std the encoder takes over. Only what ours computes alike is read: a part that it lacks
(layer scale, registers, a norm after pooling, heads normalised by LayerNorm) is refused by name.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from components.encoders.classifier import Classifier
from components.encoders.image import ImageEncoder
from components.encoders.image_config import ImageConfig
from components.interop.layout import Entry, Layout, fill, same, to_theirs
from components.interop.patches import BIAS, POSITIONS, front, without_bias
from components.interop.settings import activation, exportable, known, number, only
from components.training.weights import weights
from components.transformer.config import TransformerConfig

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
NORMS: dict[Any, Any] = {None: "layer", "layernorm": "layer", "rmsnorm": "rms"}
EPSILON = 1e-6  # of timm's norms
DROPOUTS = {  # timm's name: its default, and they compute nothing in evaluation
    "drop_rate": 0.0,
    "pos_drop_rate": 0.0,
    "proj_drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
}
ONLY = {
    "in_chans": 3,
    "qkv_bias": True,
    "proj_bias": True,
    "init_values": None,
    "pos_embed": "learn",
    "no_embed_class": False,
    "reg_tokens": 0,
    "final_norm": True,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
    "dynamic_img_size": False,
}
CHOICES = {
    "mlp_ratio": 4.0,
    "qk_norm": False,
    "class_token": True,
    "global_pool": "token",
    "fc_norm": None,
    "pre_norm": False,
    "act_layer": "gelu",
    "norm_layer": None,
}
WANTED = {
    "positions": "learned",
    "norm": ("layer", "rms"),
    "norm_place": "pre",
    "norm_epsilon": EPSILON,
    "activation": ("gelu", "gelu_tanh", "quick_gelu", "relu"),
    "bias": "all",
    "key_value_heads": None,
    "head_features": None,
}


def read(
    settings: Mapping[str, Any], tensors: Mapping[str, Tensor], source: object = "the state dict"
) -> Classifier | ImageEncoder:
    """A classifier, or the encoder alone where num_classes is 0. ValueError in one line for what ours cannot follow."""
    arguments = _arguments(settings)
    encoder = ImageEncoder(_config(arguments, settings.get("pretrained_cfg") or {}))
    classes = settings.get("num_classes", 1000)
    model = Classifier(encoder, classes, arguments["drop_rate"]) if classes else encoder
    absent = [f"{_encoder(model)[1]}{BIAS}"] if encoder.config.norm_first else []  # timm: "disable bias if pre-norm"
    fill(model, _layout(model), tensors, source, absent)
    return model


def write(model: Classifier | ImageEncoder) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and state dict. ValueError naming the field of ours that timm cannot represent."""
    encoder, prefix = _encoder(model)
    own = weights(model)
    settings = _settings(model)
    if encoder.config.norm_first:
        own = without_bias(prefix, encoder.config, own)
    return settings, to_theirs(_layout(model), own)


def _encoder(model: nn.Module) -> tuple[ImageEncoder, str]:
    """The encoder, and the prefix of its names."""
    encoder = model.encoder if isinstance(model, Classifier) else model
    if not isinstance(encoder, ImageEncoder):
        raise ValueError(f"a {type(encoder).__name__} is none of the vision transformers that timm's can stand for")
    return encoder, "encoder." if isinstance(model, Classifier) else ""


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of timm's class, from the name of the architecture and what is said beside it."""
    name = settings.get("architecture")
    found = re.fullmatch(r"vit_(\w+)_patch(\d+)_(\d+)", str(name))
    if not found or found[1] not in SIZES:
        raise ValueError(f"architecture {name!r} is unknown: known are vit_SIZE_patchN_N with SIZE {', '.join(SIZES)}")
    width, depth, heads = SIZES[found[1]]
    sizes = {"embed_dim": width, "depth": depth, "num_heads": heads}
    sizes |= {"patch_size": int(found[2]), "img_size": int(found[3])}
    given = settings.get("model_args") or {}
    known(given, sizes | ONLY | CHOICES | DROPOUTS, "model_args")
    only(given, ONLY)
    return sizes | CHOICES | DROPOUTS | given


def _config(arguments: dict[str, Any], pixels: Mapping[str, Any]) -> ImageConfig:
    if arguments["norm_layer"] not in NORMS:
        raise ValueError(f"norm_layer {arguments['norm_layer']!r} is unknown: known are layernorm and rmsnorm")
    norm = NORMS[arguments["norm_layer"]]
    if arguments["qk_norm"] and norm != "rms":
        raise ValueError("qk_norm normalises heads by LayerNorm, and ours by RMSNorm: only with norm_layer 'rmsnorm'")
    width = number(arguments, "embed_dim")
    shape = TransformerConfig(
        width=width,
        depth=number(arguments, "depth"),
        heads=number(arguments, "num_heads"),
        expansion=int(width * arguments["mlp_ratio"]) / width,
        activation=activation(arguments["act_layer"] or "gelu"),
        norm=norm,
        norm_epsilon=EPSILON,
        head_norm=arguments["qk_norm"],
        dropout=arguments["proj_drop_rate"],
        attention_dropout=arguments["attn_drop_rate"],
        position_dropout=arguments["pos_drop_rate"],
        drop_path=arguments["drop_path_rate"],
        positions="learned",
        initialise="constant",
    )
    mean, deviation = (tuple(pixels.get(name, (0.5, 0.5, 0.5))) for name in ("mean", "std"))
    return ImageConfig(
        shape,
        size=number(arguments, "img_size"),
        patch=number(arguments, "patch_size"),
        pool=_pool(arguments),
        norm_first=arguments["pre_norm"],
        mean=mean,
        deviation=deviation,
    )


def _pool(arguments: dict[str, Any]) -> Any:
    kind = arguments["global_pool"], arguments["class_token"], arguments["fc_norm"]
    if kind[:2] == ("token", True) and not kind[2]:
        return "class"
    if kind == ("avg", False, False):
        return "mean"
    raise ValueError(
        f"global_pool {kind[0]!r} with class_token {kind[1]} and fc_norm {kind[2]} is unknown here: known are 'token' "
        "with a class token, and 'avg' without one, both with the norm before them (fc_norm False)"
    )


def _layout(model: nn.Module) -> Layout:
    encoder, ours = _encoder(model)
    config, width = encoder.config, encoder.width
    token = Entry(f"{ours}summary", ("cls_token",), shape=(1, 1, width))
    positions = Entry(f"{ours}{POSITIONS}", ("pos_embed",), shape=(1, encoder.stack.positions.context, width))
    entries = [
        *front(ours, config, "patch_embed.proj", token, positions),
        *same(f"{ours}stack.norm_first", "norm_pre"),
        *same(f"{ours}stack.norm", "norm"),
        *same("head.project", "head"),
    ]
    for block in range(config.transformer.depth):
        own, theirs = f"{ours}stack.blocks.{block}", f"blocks.{block}"
        entries += [
            *same(f"{own}.attention_norm", f"{theirs}.norm1"),
            *same(f"{own}.attention.project_in", f"{theirs}.attn.qkv"),
            *same(f"{own}.attention.head_norms.0", f"{theirs}.attn.q_norm"),
            *same(f"{own}.attention.head_norms.1", f"{theirs}.attn.k_norm"),
            *same(f"{own}.attention.project_out", f"{theirs}.attn.proj"),
            *same(f"{own}.feed_forward_norm", f"{theirs}.norm2"),
            *same(f"{own}.feed_forward.project_in", f"{theirs}.mlp.fc1"),
            *same(f"{own}.feed_forward.project_out", f"{theirs}.mlp.fc2"),
        ]
    return Layout(entries)


def _settings(model: nn.Module) -> dict[str, Any]:
    encoder, _ = _encoder(model)
    config, shape = encoder.config, encoder.config.transformer
    exportable(shape, WANTED | {"head_norm": (False, shape.norm == "rms")}, "timm's vision transformer")
    if config.stem != "patches":
        raise ValueError(f"stem {config.stem} is none of timm's vision transformer's, which asks for stem patches")
    position_dropout = shape.dropout if shape.position_dropout is None else shape.position_dropout
    arguments = {
        "img_size": config.size,
        "patch_size": config.patch,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
        "mlp_ratio": shape.expansion,
        "qk_norm": shape.head_norm,
        "class_token": config.pool == "class",
        "global_pool": "token" if config.pool == "class" else "avg",
        "fc_norm": False,
        "pre_norm": config.norm_first,
        "act_layer": shape.activation,
        "norm_layer": "rmsnorm" if shape.norm == "rms" else "layernorm",
        "drop_rate": model.head.dropout.p if isinstance(model, Classifier) else 0.0,
        "pos_drop_rate": position_dropout,
        "proj_drop_rate": shape.dropout,
        "attn_drop_rate": shape.attention_dropout,
        "drop_path_rate": shape.drop_path,
    }
    pixels = {"mean": list(config.mean), "std": list(config.deviation), "input_size": [3, config.size, config.size]}
    return {
        "architecture": "vit_base_patch16_224",  # the class; every size is told by model_args
        "model_args": arguments,
        "num_classes": model.head.project.out_features if isinstance(model, Classifier) else 0,
        "pretrained_cfg": pixels,
    }
