"""Names that a configuration may hold, checked where it is built: in code, too, nothing falls back in silence."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin


def check_choices(config: Any) -> None:
    """For a dataclass's __post_init__. ValueError: a field whose type is a Literal holds none of its values."""
    for field in fields(config):
        if get_origin(field.type) is Literal and getattr(config, field.name) not in get_args(field.type):
            known = ", ".join(map(str, get_args(field.type)))
            raise ValueError(f"{field.name} {getattr(config, field.name)!r} is unknown: known are {known}")
