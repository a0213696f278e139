"""Llama (Touvron et al. 2023) and the two Qwens of its build, as Hugging Face keeps them.

Qwen2 has biases on queries, keys and values; Qwen3 normalises each head's queries and keys. The rotary base stands in
`rope_parameters` since transformers 5, and as `rope_theta` beside `rope_scaling` before.
"""

from typing import Any

from torch import Tensor

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.interop.layout import Entry, Layout, same, stacked, to_theirs
from components.interop.settings import exportable, number, only
from components.training.weights import weights
from components.transformer.config import TransformerConfig

WANTED = {
    "positions": "rotary",
    "norm": "rms",
    "norm_place": "pre",
    "activation": "swiglu",
}
ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def build(settings: dict[str, Any]) -> CausalDecoder:
    """A decoder with new weights."""
    kind = settings["model_type"]
    only(settings, {"hidden_act": "silu", "use_sliding_window": False})
    if others := set(settings.get("layer_types") or ()) - {"full_attention"}:
        raise ValueError(f"layer_types holds {min(others)!r}, and only 'full_attention' is known here")
    width, heads = number(settings, "hidden_size"), number(settings, "num_attention_heads")
    shape = TransformerConfig(
        width=width,
        depth=number(settings, "num_hidden_layers"),
        heads=heads,
        key_value_heads=settings.get("num_key_value_heads"),
        head_features=settings.get("head_dim"),
        expansion=number(settings, "intermediate_size") / width,
        activation="swiglu",
        norm="rms",
        norm_epsilon=settings.get("rms_norm_eps", 1e-6),
        head_norm=kind == "qwen3",
        bias=_bias(kind, settings),
        attention_dropout=settings.get("attention_dropout", 0.0),
        positions="rotary",
        rotary_base=_rotary_base(settings),
        initialise="constant",
    )
    tied = settings.get("tie_word_embeddings", False)
    config = DecoderConfig(shape, context=number(settings, "max_position_embeddings"), tied=tied)
    return CausalDecoder(config, number(settings, "vocab_size"))


def layout(model: CausalDecoder) -> Layout:
    config = model.config.transformer
    rows = [config.heads * config.features] + 2 * [config.groups * config.features]
    entries = [
        Entry("embedding.weight", ("model.embed_tokens.weight",)),
        Entry("head.weight", ("lm_head.weight",)),
        Entry("stack.norm.weight", ("model.norm.weight",)),
    ]
    for block in range(config.depth):
        ours, theirs = f"stack.blocks.{block}", f"model.layers.{block}"
        attention, feed_forward = f"{theirs}.self_attn", f"{theirs}.mlp"
        entries += [
            *same(f"{ours}.attention_norm", f"{theirs}.input_layernorm"),
            *stacked(f"{ours}.attention.project_in", [f"{attention}.{part}_proj" for part in "qkv"], rows),
            *same(f"{ours}.attention.project_out", f"{attention}.o_proj"),
            *same(f"{ours}.attention.head_norms.0", f"{attention}.q_norm"),
            *same(f"{ours}.attention.head_norms.1", f"{attention}.k_norm"),
            *same(f"{ours}.feed_forward_norm", f"{theirs}.post_attention_layernorm"),
            *stacked(
                f"{ours}.feed_forward.project_in",
                [f"{feed_forward}.gate_proj", f"{feed_forward}.up_proj"],
                2 * [config.hidden],
            ),
            *same(f"{ours}.feed_forward.project_out", f"{feed_forward}.down_proj"),
        ]
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if model.config.tied else {}
    unused = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"  # follows from the base; older versions stored it
    return Layout(entries, tied, unused, prefix="model.")


def describe(model: CausalDecoder) -> dict[str, Any]:
    """The settings of config.json. ValueError for what none of the three can represent."""
    config = model.config.transformer
    wanted = WANTED | {"bias": "none" if config.head_norm else ("none", "qkv", "all")}
    exportable(config, wanted, "Qwen3" if config.head_norm else "Llama")
    kind = "qwen3" if config.head_norm else "qwen2" if config.bias == "qkv" else "llama"
    biases = ("attention_bias", "mlp_bias") if kind == "llama" else ()
    return dict.fromkeys(biases, config.bias == "all") | {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": model.embedding.num_embeddings,
        "max_position_embeddings": model.config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.groups,
        "head_dim": config.features,
        "intermediate_size": config.hidden,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "attention_dropout": config.attention_dropout,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rotary_base},
        "tie_word_embeddings": model.config.tied,
    }


def tensors(model: CausalDecoder) -> dict[str, Tensor]:
    """The tensors of model.safetensors."""
    return to_theirs(layout(model), weights(model))


def _bias(kind: str, settings: dict[str, Any]) -> Any:
    has = bool(settings.get("attention_bias")), bool(settings.get("mlp_bias"))
    if kind == "llama" and has == (True, True):
        return "all"
    if has != (False, False):
        raise ValueError(f"attention_bias is {has[0]} and mlp_bias {has[1]}: only both, or neither, are known here")
    return "qkv" if kind == "qwen2" else "none"


def _rotary_base(settings: dict[str, Any]) -> float:
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or rope.get("partial_rotary_factor", settings.get("partial_rotary_factor", 1.0)) != 1.0:
        raise ValueError(f"rotary positions are of kind {kind!r} or turn a part of a head: only default ones are known")
    return float(rope.get("rope_theta", settings.get("rope_theta", 10000.0)))
