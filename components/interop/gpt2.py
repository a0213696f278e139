"""GPT-2 (Radford et al. 2019) as Hugging Face keeps it: matrices are [in, out], and one makes queries, keys, values."""

from typing import Any

from torch import Tensor

from components.decoders.causal import CausalDecoder
from components.decoders.config import DecoderConfig
from components.interop.layout import Entry, Layout, same, to_theirs
from components.interop.settings import NAMES, activation, exportable, number, only
from components.training.weights import weights
from components.transformer.config import TransformerConfig

WANTED = {
    "positions": "learned",
    "norm": "layer",
    "norm_place": "pre",
    "bias": "all",
    "activation": tuple(NAMES),
    "head_norm": False,
}
ONLY = {
    "add_cross_attention": False,
    "reorder_and_upcast_attn": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
}


def build(settings: dict[str, Any]) -> CausalDecoder:
    """A decoder with new weights."""
    only(settings, ONLY)
    width = number(settings, "n_embd")
    shape = TransformerConfig(
        width=width,
        depth=number(settings, "n_layer"),
        heads=number(settings, "n_head"),
        expansion=(settings.get("n_inner") or 4 * width) / width,
        activation=activation(settings.get("activation_function", "gelu_new")),
        norm_epsilon=settings.get("layer_norm_epsilon", 1e-5),
        dropout=settings.get("resid_pdrop", 0.1),
        attention_dropout=settings.get("attn_pdrop", 0.1),
        position_dropout=settings.get("embd_pdrop", 0.1),
        positions="learned",
        initialise="constant",
    )
    tied = settings.get("tie_word_embeddings", True)
    config = DecoderConfig(shape, context=number(settings, "n_positions"), tied=tied)
    return CausalDecoder(config, number(settings, "vocab_size"))


def layout(model: CausalDecoder) -> Layout:
    entries = [
        Entry("embedding.weight", ("transformer.wte.weight",)),
        Entry("stack.positions.table", ("transformer.wpe.weight",)),
        Entry("head.weight", ("lm_head.weight",)),
        *same("stack.norm", "transformer.ln_f"),
    ]
    for block in range(model.config.transformer.depth):
        ours, theirs = f"stack.blocks.{block}", f"transformer.h.{block}"
        entries += [
            *same(f"{ours}.attention_norm", f"{theirs}.ln_1"),
            *same(f"{ours}.attention.project_in", f"{theirs}.attn.c_attn", transposed=True),
            *same(f"{ours}.attention.project_out", f"{theirs}.attn.c_proj", transposed=True),
            *same(f"{ours}.feed_forward_norm", f"{theirs}.ln_2"),
            *same(f"{ours}.feed_forward.project_in", f"{theirs}.mlp.c_fc", transposed=True),
            *same(f"{ours}.feed_forward.project_out", f"{theirs}.mlp.c_proj", transposed=True),
        ]
    tied = {"lm_head.weight": "transformer.wte.weight"} if model.config.tied else {}
    unused = r"transformer\.h\.\d+\.attn\.(masked_)?bias"  # the causal mask, which older versions stored
    return Layout(entries, tied, unused, prefix="transformer.")


def describe(model: CausalDecoder) -> dict[str, Any]:
    """The settings of config.json. ValueError for what GPT-2 cannot represent."""
    config = model.config.transformer
    whole = {"key_value_heads": (None, config.heads), "head_features": (None, config.width // config.heads)}
    exportable(config, WANTED | whole, "GPT-2")
    position_dropout = config.dropout if config.position_dropout is None else config.position_dropout
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": model.embedding.num_embeddings,
        "n_positions": model.config.context,
        "n_embd": config.width,
        "n_layer": config.depth,
        "n_head": config.heads,
        "n_inner": config.hidden,
        "activation_function": NAMES[config.activation],
        "layer_norm_epsilon": config.norm_epsilon,
        "resid_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
        "embd_pdrop": position_dropout,
        "tie_word_embeddings": model.config.tied,
    }


def tensors(model: CausalDecoder) -> dict[str, Tensor]:
    """The tensors of model.safetensors."""
    return to_theirs(layout(model), weights(model))
