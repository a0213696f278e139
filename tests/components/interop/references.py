"""Small models of transformers with random weights everywhere: first values of biases and norms would hide mistakes."""

from typing import Any

import torch
from torch import nn

VOCABULARY, CONTEXT = 60, 24
SIZES = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT, "hidden_size": 32, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "intermediate_size": 72}
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
GPT2 = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 32, "n_layer": 3, "n_head": 4} | NO_TOKENS
GROUPED = SIZES | {"num_key_value_heads": 2} | NO_TOKENS
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}

DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2-untied-wide-relu": (
        "GPT2",
        GPT2 | {"n_inner": 72, "tie_word_embeddings": False, "activation_function": "relu"},
    ),
    "llama": ("Llama", GROUPED),
    "llama-tied-biased-heads": (
        "Llama",
        GROUPED | ROPE | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True, "head_dim": 12},
    ),
    "qwen2": ("Qwen2", GROUPED | ROPE | {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", GROUPED | ROPE | {"head_dim": 16, "rms_norm_eps": 1e-5}),
}
BERT = SIZES | {"type_vocab_size": 2} | NO_TOKENS


def decoder(name: str) -> Any:
    import transformers

    kind, settings = DECODERS[name]
    config = getattr(transformers, f"{kind}Config")(**settings)
    torch.manual_seed(0)
    return randomised(transformers.AutoModelForCausalLM.from_config(config))


def bert() -> Any:
    import transformers

    torch.manual_seed(0)
    return randomised(transformers.BertForMaskedLM(transformers.BertConfig(**BERT)))


def randomised(model: nn.Module) -> Any:
    """In eval mode, each parameter drawn anew around where it began."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return model.eval()
