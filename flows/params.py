"""params.yaml into frozen dataclasses: the only reader of YAML among the stages.

Strict on purpose: nothing is converted but whole numbers where numbers are due, and a wrong key, type or range is one
line that names the key, the value, what is allowed and the nearest known key. Own code and not pydantic, whose messages
take several lines, name no nearest key and quote no section. The configs stay plain dataclasses that know no YAML;
cross-field checks are theirs (`__post_init__` raising ValueError). A `Reference` makes a text name a key elsewhere.
"""

import dataclasses
import difflib
import json
import operator
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import annotated_types as bounds
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

T = TypeVar("T")

_SCALARS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "null"}
_BOUNDS = {  # constraint -> (does the value keep it, in words)
    bounds.Ge: (operator.ge, "at least {}"),
    bounds.Gt: (operator.gt, "above {}"),
    bounds.Le: (operator.le, "at most {}"),
    bounds.Lt: (operator.lt, "below {}"),
    bounds.MinLen: (lambda value, least: len(value) >= least, "{} or more long"),
    bounds.MaxLen: (lambda value, most: len(value) <= most, "{} or less long"),
}


class ParamsError(Exception):
    """What is wrong with a file of parameters, in one line."""


@dataclass(frozen=True)
class Reference:
    """`Annotated[str, Reference("sources")]` names a key of the section `sources`.

    Braces take the section from a sibling field: `Reference("{stage}")`.
    """

    section: str


def read(section: str, cls: type[T], path: str = "params.yaml") -> T:
    """Build cls from a section, as `train_image.world`.

    Raises:
        ParamsError: the file or the section is missing, or does not fit cls.
    """
    return build(section, cls, load(path), path)


def load(path: str) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file.

    Raises:
        ParamsError: no such file, not UTF-8, not YAML, a key given twice, or not a mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = YAML(typ="safe", pure=True).load(file.read())
    except OSError as error:
        raise ParamsError(f"{path}: {error.strerror}: run in the repository root, where {path} stands") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ParamsError(f"{path}: line {line}: {error.problem}") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ParamsError(f"{path}: holds {_show(content)}, not a mapping of sections")
    return content


def build(section: str, cls: type[T], root: dict[str, Any], path: str = "params.yaml") -> T:
    """Build cls from a section of a loaded file; `path` is for messages. Raises ParamsError."""
    value: Any = root
    for depth, name in enumerate(section.split(".")):
        if not isinstance(value, dict) or name not in value:
            known = value if isinstance(value, dict) else ()
            above = ".".join(section.split(".")[:depth]) or path
            raise ParamsError(f"{path}: {section}: {above} has no key {name}{nearest(name, known)}")
        value = value[name]
    return _Builder(root, path).build(cls, value, section, {})


def nearest(name: str, known: Iterable[Any]) -> str:
    """`: did you mean X? known are X, Y`, for the end of a message."""
    names = [str(key) for key in known]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return (f": did you mean {close[0]}?" if close else ":") + (
        f" known are {', '.join(names)}" if names else " it is empty"
    )


@dataclass(frozen=True)
class _Builder:
    root: dict[str, Any]  # the whole file, where references are looked up
    path: str

    def build(self, kind: Any, value: Any, at: str, siblings: dict[str, Any], whole: Any = None) -> Any:
        """The value as `kind`. at: its dotted key; siblings: the fields beside it; whole: the kind for messages."""
        origin, arguments = get_origin(kind), get_args(kind)
        if origin is Annotated:
            built = self.build(arguments[0], value, at, siblings, kind)
            self._check_metadata(kind, built, at, siblings)
            return built
        if origin in (Union, UnionType):
            return self._build_union(kind, value, at, siblings)
        if dataclasses.is_dataclass(kind):
            return self._build_dataclass(kind, value, at)
        if origin is Literal and any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        if origin is dict and isinstance(value, dict):
            key, item = arguments
            return {
                self.build(key, k, f"{at} key", {}): self.build(item, v, f"{at}.{k}", siblings)
                for k, v in value.items()
            }
        if origin in (list, tuple) and isinstance(value, list):
            kinds = arguments * len(value) if origin is list else arguments
            if origin is tuple and arguments[-1] is Ellipsis:
                kinds = arguments[:1] * len(value)
            if len(kinds) == len(value):
                pairs = zip(kinds, value, strict=True)
                return origin(self.build(k, v, f"{at}[{i}]", siblings) for i, (k, v) in enumerate(pairs))
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if kind in _SCALARS and type(value) is kind:
            return value
        raise self._refusal(whole or kind, value, at)

    def _build_dataclass(self, cls: Any, value: Any, at: str) -> Any:
        if not isinstance(value, dict):
            raise self._refusal(cls, value, at)
        fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
        for key, given in value.items():
            if key not in fields:
                raise ParamsError(f"{self.path}: {at}.{key} = {_show(given)}: no such key{nearest(str(key), fields)}")
        hints = get_type_hints(cls, include_extras=True)
        for name, field in fields.items():
            if name not in value and field.default is MISSING and field.default_factory is MISSING:
                raise ParamsError(f"{self.path}: {at}.{name} is missing: it must be {_describe(hints[name])}")
        siblings = {name: field.default for name, field in fields.items()} | value
        built = {name: self.build(hints[name], given, f"{at}.{name}", siblings) for name, given in value.items()}
        try:
            return cls(**built)
        except ValueError as error:
            raise ParamsError(f"{self.path}: {at}: {error}") from None

    def _build_union(self, kind: Any, value: Any, at: str, siblings: dict[str, Any]) -> Any:
        """The first alternative that takes the value. Of mappings, that with most of its keys gives the message."""
        errors: dict[Any, ParamsError] = {}
        for alternative in get_args(kind):
            try:
                return self.build(alternative, value, at, siblings)
            except ParamsError as error:
                errors[alternative] = error
        if isinstance(value, dict) and (mappings := [choice for choice in errors if _takes_mapping(choice)]):
            raise errors[max(mappings, key=lambda choice: len(_keys(choice) & value.keys()))]
        others = [choice for choice in errors if choice is not NoneType and not _takes_mapping(choice)]
        raise errors[others[0]] if len(others) == 1 and value is not None else self._refusal(kind, value, at)

    def _check_metadata(self, kind: Any, value: Any, at: str, siblings: dict[str, Any]) -> None:
        for constraint in _constraints(kind):
            if not _BOUNDS[type(constraint)][0](value, *dataclasses.astuple(constraint)):
                raise self._refusal(kind, value, at)
        for reference in (item for item in kind.__metadata__ if isinstance(item, Reference)):
            section = reference.section.format_map(siblings)
            known = self.root.get(section, {})
            if value not in known:
                raise ParamsError(
                    f"{self.path}: {at} = {_show(value)}: {section} has no such key{nearest(str(value), known)}"
                )

    def _refusal(self, kind: Any, value: Any, at: str) -> ParamsError:
        message = f"{self.path}: {at} = {_show(value)}: must be {_describe(kind)}"
        if get_origin(kind) is Literal:
            close = difflib.get_close_matches(str(value), [str(choice) for choice in get_args(kind)], n=1)
            message += f"; did you mean {close[0]}?" if close else ""
        return ParamsError(message)


def _constraints(kind: Any) -> Iterator[Any]:
    for item in kind.__metadata__:
        if isinstance(item, bounds.GroupedMetadata):  # Interval, Len
            yield from (part for part in item if isinstance(part, bounds.BaseMetadata))
        elif isinstance(item, bounds.BaseMetadata):
            yield item


def _takes_mapping(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) or get_origin(kind) is dict


def _keys(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()


def _describe(kind: Any) -> str:
    """What a value of this type may be, in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [_BOUNDS[type(item)][1].format(*dataclasses.astuple(item)) for item in _constraints(kind)]
        return ", ".join([_describe(arguments[0]), *([" and ".join(limits)] if limits else [])])
    if origin in (Union, UnionType):
        return " or ".join(_describe(choice) for choice in arguments)
    if origin is Literal:
        return f"one of {', '.join(_show(choice) for choice in arguments)}"
    if origin is dict:
        return f"a mapping to {_describe(arguments[1])}"
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"a list, each {_describe(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}: {', '.join(map(_describe, arguments))}"
    if dataclasses.is_dataclass(kind):
        return f"a mapping with the keys {', '.join(field.name for field in dataclasses.fields(kind) if field.init)}"
    return _SCALARS[kind]


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
