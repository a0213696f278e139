"""Reading and writing of a reference's settings: what is missing, unknown or not ours is named, in one line."""

from collections.abc import Mapping
from typing import Any

from components.attention.config import Softmax
from components.transformer.config import TransformerConfig

ACTIVATIONS = {  # Hugging Face's and timm's names: ours
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
NAMES = {"gelu": "gelu", "gelu_tanh": "gelu_new", "quick_gelu": "quick_gelu", "relu": "relu"}  # for Hugging Face

Settings = Mapping[str, Any]


def number(settings: Settings, name: str) -> int:
    """A size that the model cannot be built without."""
    value = settings.get(name)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} is {value!r}, and must be a whole number above 0")
    return value


def activation(name: object) -> Any:
    """Our name of an activation."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is unknown: known are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]  # type: ignore[index]


def only(settings: Settings, wanted: Settings) -> None:
    """Refuse what would compute something else than ours; a setting that is left out has the wanted value."""
    for name, value in wanted.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{name} is {settings[name]!r}, and only {value!r} is known here")


def known(settings: Settings, names: Mapping[str, Any], what: str) -> None:
    """Refuse settings that nothing is known of: they may name parts that ours lacks."""
    if foreign := next((name for name in settings if name not in names), None):
        raise ValueError(f"{what} has {foreign} = {settings[foreign]!r}, a part that is unknown here")


def exportable(config: TransformerConfig, wanted: Settings, family: str) -> None:
    """ValueError naming the first field of ours that the family cannot represent, and all that it asks for."""
    if config.attention != Softmax():
        raise ValueError(f"attention {config.attention.kind} is none of {family}'s, which asks for attention softmax")
    for name, value in wanted.items():
        has = getattr(config, name)
        if has not in (value if isinstance(value, tuple) else (value,)):
            raise ValueError(f"{name} {_word(has)} is none of {family}'s, which asks for {asked(wanted)}")


def asked(wanted: Settings) -> str:
    """The fields and their values, in words."""
    return ", ".join(
        f"{name} {' or '.join(map(_word, value)) if isinstance(value, tuple) else _word(value)}"
        for name, value in wanted.items()
    )


def _word(value: object) -> str:
    return "null" if value is None else str(value)
