"""A model as a folder: model.safetensors and config.json, with the same bytes for the same weights."""

import json
import os
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.durable import whole, write_whole


def stored(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, as they lie in the model; of tied ones only the first name."""
    named: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        named.setdefault(id(tensor), (name, tensor))
    return {name: tensor.detach() for name, tensor in named.values()}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """What is stored, in the layout that files have."""
    return {name: tensor.contiguous() for name, tensor in stored(model).items()}


def copy_weights(tensors: dict[str, Tensor], model: nn.Module, source: object) -> None:
    """Put `tensors` into the model in place. ValueError in one line where names or shapes differ."""
    if difference := differs(tensors, model):
        raise ValueError(f"{source} is of another model: {difference}")
    model.load_state_dict(tensors, strict=False)  # strict would ask for the further names of tied tensors


def differs(tensors: dict[str, Tensor], model: nn.Module) -> str:
    """The first difference in names and shapes between `tensors` and the model; empty when there is none."""
    own = weights(model)
    if missing := next((name for name in own if name not in tensors), None):
        return f"it lacks {missing}"
    if foreign := next((name for name in tensors if name not in own), None):
        return f"it has {foreign}, which the model lacks"
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            return f"{name} is {list(tensors[name].shape)} there and {list(tensor.shape)} in the model"
    return ""


def save_model(folder: Path, model: nn.Module, config: dict[str, Any]) -> None:
    """Write the weights and what is needed to build the model again; each file appears whole or not at all."""
    with whole(folder / "model.safetensors") as draft:
        write_tensors(draft, weights(model))
    text = json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_whole(folder / "config.json", text.encode())


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file. OSError with its number where it cannot be written."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):  # safetensors gives it as text
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise
    path.chmod(0o644)  # safetensors makes it private


def load_weights(folder: Path, model: nn.Module) -> None:
    """Fill `model` from a folder of save_model. ValueError in one line for a damaged file or another model's."""
    path = folder / "model.safetensors"
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): make it again") from error
    copy_weights(tensors, model, path)


def load_config(folder: Path) -> dict[str, Any]:
    """The config that save_model was given. ValueError in one line for a damaged file."""
    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): make it again") from error
