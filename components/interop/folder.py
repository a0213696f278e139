"""A Hugging Face folder, read into our modules and written from them, without transformers.

config.json says which family it is; the weights lie in model.safetensors, or in parts that an index lists. Nothing is
unpickled: a pytorch_model.bin is refused. What `write` leaves is read by `AutoModelForCausalLM`, `AutoModelForMaskedLM`
and `AutoTokenizer` as it is.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.data.tokenizer import load as load_tokenizer
from components.decoders.causal import CausalDecoder
from components.encoders.masked_language import MaskedLanguageModel
from components.interop import bert, gpt2, llama
from components.interop.layout import fill
from components.interop.settings import asked

FAMILIES: dict[str, ModuleType] = {"bert": bert, "gpt2": gpt2, "llama": llama, "qwen2": llama, "qwen3": llama}
WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
ROLES = {"<pad>": "pad", "<bos>": "bos", "<eos>": "eos", "<mask>": "mask", "<cls>": "cls", "<sep>": "sep"}


def read(folder: Path) -> CausalDecoder | MaskedLanguageModel:
    """The model of a folder, in fp32 and training mode. ValueError in one line where it is not one that is known."""
    settings = _mapping(folder / CONFIG)
    kind = settings.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ValueError(f"{folder / CONFIG}: model_type {kind!r} is unknown: known are {', '.join(FAMILIES)}")
    family = FAMILIES[kind]
    try:
        model = family.build(settings)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / CONFIG}: {error}") from error
    fill(model, family.layout(model), _tensors(folder), folder / WEIGHTS)
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
    texts[CONFIG] = _json(settings)
    folder.mkdir(parents=True, exist_ok=True)
    _put(folder / WEIGHTS, lambda path: save_file(tensors, path, {"format": "pt"}))  # transformers asks for the format
    for name, text in texts.items():
        _put(folder / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))


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
        about = _mapping(folder / TOKENIZER_CONFIG)
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
    return {TOKENIZER: text, TOKENIZER_CONFIG: _json(about)}, special


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, from one file or from the parts that its index lists."""
    if (folder / INDEX).exists():
        parts = _mapping(folder / INDEX).get("weight_map")
        if not isinstance(parts, dict) or not all(Path(str(name)).name == name for name in parts.values()):
            raise ValueError(f"{folder / INDEX}: weight_map must give each tensor a file of this folder")
        names = sorted(set(parts.values()))
    elif (folder / WEIGHTS).exists():
        names = [WEIGHTS]
    elif (folder / "pytorch_model.bin").exists() or (folder / "pytorch_model.bin.index.json").exists():
        raise ValueError(
            f"{folder} holds pytorch_model.bin, a pickle, which may run code when it is opened, and no {WEIGHTS}: "
            "if you trust it, convert it with transformers' from_pretrained and save_pretrained"
        )
    else:
        raise ValueError(f"{folder} holds neither {WEIGHTS} nor {INDEX}: it is no Hugging Face folder")
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= load_file(folder / name)
        except FileNotFoundError as error:
            raise ValueError(f"{folder / name} is missing, and {INDEX} lists it") from error
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is damaged ({error}): fetch it again") from error
    return tensors


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {path.parent} is no Hugging Face folder") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no mapping): fetch it again")
    return content


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _put(path: Path, write_to: Callable[[Path], object]) -> None:
    partial = path.with_name(".partial")
    try:
        write_to(partial)
        partial.chmod(0o644)  # safetensors makes it private
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
