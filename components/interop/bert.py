"""BERT (Devlin et al. 2019) for masked words, as Hugging Face keeps it.

Left out are the pooler and the guess of the next sentence, which masked words do not need. A file with them is read,
and the rest of it taken.
"""

from typing import Any

from torch import Tensor

from components.encoders.masked_language import MaskedLanguageModel
from components.encoders.text import TextEncoder
from components.encoders.text_config import TextConfig
from components.interop.layout import Entry, Layout, same, stacked, to_theirs
from components.interop.settings import exportable, number, only
from components.training.weights import weights
from components.transformer.config import TransformerConfig

WANTED = {
    "positions": "learned",
    "norm": "layer",
    "norm_place": "post",
    "bias": "all",
    "activation": "gelu",
    "head_norm": False,
}
EMBEDDINGS = "bert.embeddings"
ONLY = {
    "add_cross_attention": False,
    "hidden_act": "gelu",
    "is_decoder": False,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
}


def build(settings: dict[str, Any]) -> MaskedLanguageModel:
    """A model with new weights; its encoder pools by the mean."""
    only(settings, ONLY)
    width = number(settings, "hidden_size")
    shape = TransformerConfig(
        width=width,
        depth=number(settings, "num_hidden_layers"),
        heads=number(settings, "num_attention_heads"),
        expansion=number(settings, "intermediate_size") / width,
        norm_place="post",
        norm_epsilon=settings.get("layer_norm_eps", 1e-12),
        dropout=settings.get("hidden_dropout_prob", 0.1),
        attention_dropout=settings.get("attention_probs_dropout_prob", 0.1),
        positions="learned",
        initialise="constant",
    )
    segments = number({"type_vocab_size": 2} | settings, "type_vocab_size")
    config = TextConfig(shape, context=number(settings, "max_position_embeddings"), segments=segments)
    return MaskedLanguageModel(TextEncoder(config, number(settings, "vocab_size")))


def layout(model: MaskedLanguageModel) -> Layout:
    config, stack = model.encoder.config, "encoder.stack"
    entries = [
        Entry("encoder.embedding.weight", (f"{EMBEDDINGS}.word_embeddings.weight",)),
        Entry("encoder.segments.weight", (f"{EMBEDDINGS}.token_type_embeddings.weight",)),
        Entry(f"{stack}.positions.table", (f"{EMBEDDINGS}.position_embeddings.weight",)),
        *same(f"{stack}.norm", f"{EMBEDDINGS}.LayerNorm"),
        *same("head.dense", "cls.predictions.transform.dense"),
        *same("head.norm", "cls.predictions.transform.LayerNorm"),
        Entry("head.bias", ("cls.predictions.bias",)),
    ]
    for block in range(config.transformer.depth):
        ours, theirs = f"{stack}.blocks.{block}", f"bert.encoder.layer.{block}"
        parts = [f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")]
        entries += [
            *stacked(f"{ours}.attention.project_in", parts, 3 * [config.transformer.width]),
            *same(f"{ours}.attention.project_out", f"{theirs}.attention.output.dense"),
            *same(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm"),
            *same(f"{ours}.feed_forward.project_in", f"{theirs}.intermediate.dense"),
            *same(f"{ours}.feed_forward.project_out", f"{theirs}.output.dense"),
            *same(f"{ours}.feed_forward_norm", f"{theirs}.output.LayerNorm"),
        ]
    tied = {
        "cls.predictions.decoder.weight": f"{EMBEDDINGS}.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    unused = r"bert\.pooler\..*|cls\.seq_relationship\..*|bert\.embeddings\.position_ids"
    older = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    return Layout(entries, tied, unused, older=older)


def describe(model: MaskedLanguageModel) -> dict[str, Any]:
    """The settings of config.json. ValueError for what BERT cannot represent."""
    encoder = model.encoder.config
    config = encoder.transformer
    whole = {"key_value_heads": (None, config.heads), "head_features": (None, config.width // config.heads)}
    exportable(config, WANTED | whole | {"position_dropout": (None, config.dropout)}, "BERT")
    if encoder.causal:
        raise ValueError("causal True is none of BERT's, which asks for causal False")
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": model.encoder.embedding.num_embeddings,
        "max_position_embeddings": encoder.context,
        "type_vocab_size": encoder.segments or 1,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.hidden,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_epsilon,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "tie_word_embeddings": True,
    }


def tensors(model: MaskedLanguageModel) -> dict[str, Tensor]:
    """The tensors of model.safetensors."""
    found = to_theirs(layout(model), weights(model))
    if not model.encoder.config.segments:  # BERT always adds one of at least one
        width = model.encoder.width
        found[f"{EMBEDDINGS}.token_type_embeddings.weight"] = model.head.bias.new_zeros(1, width)
    return found
