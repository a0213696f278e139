"""The files that models of all references lie in: settings as JSON, and weights as safetensors, whole or in parts.

Nothing is unpickled: a pytorch_model.bin is refused. What is damaged or missing is named in one line.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from components.durable import whole, write_whole
from components.training.weights import write_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def load_settings(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. ValueError in one line where it is missing, damaged or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: {path.parent} is no folder of a model") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged (it holds no mapping): fetch it again")
    return content


def load_tensors(folder: Path, name: str = WEIGHTS) -> dict[str, Tensor]:
    """All tensors of a folder, from one file or from the parts that `name`.index.json lists."""
    index = folder / f"{name}.index.json"
    if (folder / name).exists():
        return _load(folder / name)
    if index.exists():
        parts = load_settings(index).get("weight_map")
        if not isinstance(parts, dict) or not all(Path(str(part)).name == part for part in parts.values()):
            raise ValueError(f"{index}: weight_map must give each tensor a file of this folder")
        return {key: tensor for part in sorted(set(parts.values())) for key, tensor in _load(folder / part).items()}
    if pickles := sorted(path.name for path in folder.glob("*.bin*")):
        raise ValueError(
            f"{folder} holds {pickles[0]}, a pickle, which may run code when it is opened, and no {name}: if you trust "
            "it, convert it with the library that it is from (transformers: from_pretrained, then save_pretrained)"
        )
    raise ValueError(f"{folder} holds neither {name} nor {index.name}: it is no folder of a model")


def save(
    folder: Path,
    settings: Mapping[str, Any],
    tensors: dict[str, Tensor],
    *,
    config: str = CONFIG,
    weights: str = WEIGHTS,
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write a folder; each file appears whole or not at all, the settings last. texts: further files by name.

    open_clip's names are open_clip_config.json and open_clip_model.safetensors. OSError: a full disk.
    """
    with whole(folder / weights) as draft:
        write_tensors(draft, tensors, {"format": "pt"})  # transformers asks for the format
    for name, text in {**(texts or {}), config: as_text(settings)}.items():
        write_whole(folder / name, text.encode())


def as_text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing, and the index of its parts lists it") from error
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
