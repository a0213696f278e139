"""Which tensors of a reference hold the numbers of ours: one list of entries a model, followed in both directions.

Four things differ between layouts, and an entry says which: the name; several tensors that ours stacks along the rows
(queries, keys, values); a matrix kept as [in, out]; other axes for the same numbers. Numbers change nowhere, so that a
round trip gives the same bits.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from components.training.weights import copy_weights, weights

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """One tensor of ours, and those of the reference that it is made of."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...] = ()  # of each, where there are several
    transposed: bool = False
    shape: Shape = ()  # the reference's, where it has other axes

    def shapes(self, own: Shape) -> list[Shape]:
        """Of the reference's tensors, when ours is `own`."""
        if self.shape:
            return [self.shape]
        if self.rows:
            return [(rows, *own[1:]) for rows in self.rows]
        return [own[::-1] if self.transposed else own]

    def read(self, tensors: Mapping[str, Tensor], own: Shape) -> Tensor:
        parts = [tensors[name] for name in self.theirs]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        return whole.T if self.transposed else whole.reshape(own)

    def write(self, tensor: Tensor) -> dict[str, Tensor]:
        if self.shape:
            tensor = tensor.reshape(self.shape)
        parts = tensor.split(self.rows) if self.rows else [tensor.T if self.transposed else tensor]
        return dict(zip(self.theirs, parts, strict=True))


@dataclass(frozen=True)
class Layout:
    """Entries for whatever the model may have (those of tensors that it lacks are left out), and what files add."""

    entries: Sequence[Entry]
    tied: Mapping[str, str] = field(default_factory=dict)  # further names of a tensor, which files may repeat
    unused: str = r"(?!)"  # names that mean nothing to our model, as a regular expression
    prefix: str = ""  # of almost all names; files of the model without a head leave it out
    older: Mapping[str, str] = field(default_factory=dict)  # endings in files of old: today's


def same(ours: str, theirs: str, *, transposed: bool = False) -> list[Entry]:
    """Entries for the weight and the bias of one module."""
    return [
        Entry(f"{ours}.weight", (f"{theirs}.weight",), transposed=transposed),
        Entry(f"{ours}.bias", (f"{theirs}.bias",)),
    ]


def stacked(ours: str, theirs: Sequence[str], rows: Sequence[int]) -> list[Entry]:
    """Entries for the weight and the bias of one module that is several of the reference's."""
    kinds = ("weight", "bias")
    return [Entry(f"{ours}.{kind}", tuple(f"{name}.{kind}" for name in theirs), tuple(rows)) for kind in kinds]


def to_ours(
    layout: Layout, tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape], source: object
) -> dict[str, Tensor]:
    """Our tensors, of the `shapes` given by name. ValueError in one line where the reference's are not what they need.

    source: where the tensors are from, for messages.
    """
    tensors = _cleaned(layout, tensors, source)
    entries = [entry for entry in layout.entries if entry.ours in shapes]
    wanted = {
        name: shape
        for entry in entries
        for name, shape in zip(entry.theirs, entry.shapes(shapes[entry.ours]), strict=True)
    }
    if missing := next((name for name in wanted if name not in tensors), None):
        raise ValueError(f"{source} is of another model: it lacks {missing}")
    if foreign := next((name for name in tensors if name not in wanted), None):
        raise ValueError(f"{source} is of another model: it has {foreign}, which ours has no place for")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(
                f"{source} does not fit its configuration: {name} is {list(tensors[name].shape)}, "
                f"and {list(shape)} is wanted"
            )
    return {entry.ours: entry.read(tensors, shapes[entry.ours]) for entry in entries}


def to_theirs(layout: Layout, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reference's tensors from all of ours; each has its memory for itself, as files want it."""
    entries = {entry.ours: entry for entry in layout.entries}
    return {
        name: part.clone(memory_format=torch.contiguous_format)
        for key, tensor in own.items()
        for name, part in entries[key].write(tensor.detach()).items()
    }


def fill(
    model: nn.Module, layout: Layout, tensors: Mapping[str, Tensor], source: object, absent: Collection[str] = ()
) -> None:
    """Put a reference's tensors into the model. absent: ours that it has none for; they become zeros."""
    own = weights(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items() if name not in absent}
    zeros = {name: torch.zeros_like(own[name]) for name in absent}
    copy_weights(to_ours(layout, tensors, shapes, source) | zeros, model, source)


def _cleaned(layout: Layout, tensors: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """Under today's names, without what ours does not use and without repetitions."""
    prefix = "" if any(name.startswith(layout.prefix) for name in tensors) else layout.prefix
    found = {prefix + _today(layout, name): tensor for name, tensor in tensors.items()}
    found = {name: tensor for name, tensor in found.items() if not re.fullmatch(layout.unused, name)}
    for further, name in layout.tied.items():
        repeated = found.pop(further, None)
        if repeated is not None and not torch.equal(repeated, found.setdefault(name, repeated)):
            raise ValueError(f"{source} is of another model: {further} is tied to {name}, and they differ")
    return found


def _today(layout: Layout, name: str) -> str:
    for old, new in layout.older.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name
