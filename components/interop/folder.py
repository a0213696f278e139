"""A Hugging Face folder, read into our modules and written from them, without transformers.

config.json says which family it is. What `write` leaves is read by `AutoModelForCausalLM`, `AutoModelForMaskedLM` and
`AutoTokenizer` as it is.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from components.data.tokenizer import load as load_tokenizer
from components.decoders.causal import CausalDecoder
from components.encoders.masked_language import MaskedLanguageModel
from components.interop import bert, gpt2, llama
from components.interop.files import CONFIG, WEIGHTS, as_text, load_settings, load_tensors, save
from components.interop.layout import fill
from components.interop.settings import asked

FAMILIES: dict[str, ModuleType] = {"bert": bert, "gpt2": gpt2, "llama": llama, "qwen2": llama, "qwen3": llama}
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
ROLES = {"<pad>": "pad", "<bos>": "bos", "<eos>": "eos", "<mask>": "mask", "<cls>": "cls", "<sep>": "sep"}


def read(folder: Path) -> CausalDecoder | MaskedLanguageModel:
    """The model of a folder, in fp32 and training mode. ValueError in one line where it is not one that is known."""
    settings = load_settings(folder / CONFIG)
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{folder / CONFIG}: model_type {kind!r} is unknown: known are {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    try:
        model = family.build(settings)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    fill(model, family.layout(model), load_tensors(folder), folder / WEIGHTS)
    return model


def write(folder: Path, model: nn.Module, tokenizer: Path | None = None) -> None:
    """Write a decoder or masked language model for transformers; each file appears whole or not at all.

    tokenizer: a folder with tokenizer.json; a tokenizer_config.json beside it is kept, else one is made that knows the
    project's special tokens. ValueError in one line naming what no family of Hugging Face's can represent.
    """
    family = _family(model)
    settings = _describe(model, family)
    texts: dict[str, str] = {}
    if tokenizer is not None:
        texts, special = _tokenizer(tokenizer, settings)
        settings |= special
    tensors = family.tensors(model)
    settings["dtype"] = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    save(folder, settings, tensors, texts=texts)


def _family(model: nn.Module) -> ModuleType:
    if isinstance(model, MaskedLanguageModel):
        return bert
    if isinstance(model, CausalDecoder):
        return gpt2 if model.config.transformer.positions == "learned" else llama
    raise ValueError(f"a {type(model).__name__} is none of Hugging Face's models that are known: {', '.join(FAMILIES)}")


def _describe(model: nn.Module, family: ModuleType) -> dict[str, Any]:
    """The family's settings, and the special tokens' numbers, whose defaults would be those of a large vocabulary."""
    try:
        settings = family.describe(model)
    except ValueError as error:
        if family is bert:
            raise
        name, other = ("GPT-2", gpt2) if family is llama else ("Llama", llama)
        raise ValueError(f"{error}; {name} for {asked(other.WANTED)}") from error
    return settings | dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


def _tokenizer(folder: Path, settings: dict[str, Any]) -> tuple[dict[str, str], dict[str, int]]:
    """The tokenizer's files, and the special tokens' numbers for config.json."""
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # tokenizers raises no narrower one
        raise ValueError(f"{folder / TOKENIZER} is missing or damaged ({error}): make it again") from error
    size, room = tokenizer.get_vocab_size(), settings["vocab_size"]
    if size > room:
        raise ValueError(f"{folder / TOKENIZER} has {size} tokens, and the model {room}: it is another model's")
    if (folder / TOKENIZER_CONFIG).exists():
        about = load_settings(folder / TOKENIZER_CONFIG)
    else:
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        about["model_max_length"] = settings.get("n_positions") or settings["max_position_embeddings"]
        about |= {f"{role}_token": token for token, role in ROLES.items() if tokenizer.token_to_id(token) is not None}
    special = {}
    for role in ("bos", "eos", "pad"):
        token = about.get(f"{role}_token")
        number = tokenizer.token_to_id(token["content"] if isinstance(token, dict) else token) if token else None
        if number is not None:
            special[f"{role}_token_id"] = number
    text = (folder / TOKENIZER).read_text(encoding="utf-8")
    return {TOKENIZER: text, TOKENIZER_CONFIG: as_text(about)}, special
