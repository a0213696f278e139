"""A source of data, as params.yaml states it: the parameters of ingest and validate, without torch.

    sources:
      digits:
        layout: tar
        path: data/raw/fsdd
        splits: {train: fsdd-train.tar, test: fsdd-test.tar}
        fields: {sound: wav, label: json.digit}
        held_out: {valid: {share: 0.1}}

docs/own-data.md explains it with an example a layout.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval, MinLen

Split = Literal["train", "valid", "test"]
Share = Annotated[float, Interval(ge=0, lt=1)]
Kind = Literal["image", "sound", "text"]  # what a record holds besides its JSON fields
MEDIA = ("image", "sound")


@dataclass(frozen=True)
class HeldOut:
    """Which records of the train files make another split: by the value of a field, or a share by seeded hash."""

    where: dict[str, tuple[str, ...]] = field(default_factory=dict)  # field (as in `fields`) -> its values, as text
    share: Share = 0.0  # of the remaining records, hashed by key; of plain text: the last part
    by: str = ""  # a field hashed instead of the key, so that records which share it stay together

    def __post_init__(self) -> None:
        if bool(self.where) == bool(self.share):
            raise ValueError("held_out needs either `where: {field: [values]}` or a `share` above 0 for a split")


@dataclass(frozen=True)
class World:
    """One view of the generated world (components/data/world). Scene i of a split is the same in every view."""

    view: Literal["pictures", "text", "speech"]
    train: Annotated[int, Interval(ge=1)]  # scenes in each split
    valid: Annotated[int, Interval(ge=1)]
    test: Annotated[int, Interval(ge=1)]
    label: Literal["shape", "colour", "count"] = "shape"  # of the uppermost (then leftmost) object; or how many objects
    objects: Annotated[int, Interval(ge=1, le=3)] = 3  # scenes with more are left out of this view
    image_size: Annotated[int, Interval(ge=32, le=512)] = 64  # pixels
    rate: Annotated[int, Interval(ge=8000, le=22050)] = 16000  # of the speech, samples per second
    noise: Annotated[float, Interval(ge=-10, le=60)] = 10.0  # of the test speech: signal to noise, dB


@dataclass(frozen=True)
class Source:
    layout: Literal["world", "tar", "jsonl", "idx", "text"]
    path: Annotated[str, MinLen(1)]  # a folder or file, relative to the repository
    splits: dict[Split, str] = field(default_factory=dict)  # split -> glob under a folder `path`
    fields: dict[str, str] = field(default_factory=dict)  # name -> where it stands: a member's extension or a JSON path
    filter: dict[str, str | int | bool] = field(default_factory=dict)  # keep only records with these field values
    held_out: dict[Split, HeldOut] = field(default_factory=dict)  # valid and test records taken from the train files
    classes: tuple[str, ...] = ()  # names of whole-number labels, in their order; or the allowed labels
    tolerate: Share = 0.0  # share of bad records up to which validation passes
    seed: Annotated[int, Interval(ge=0)] = 0  # of the generated world and of shares held out
    world: World | None = None

    @property
    def kind(self) -> Kind:
        if self.world is not None:
            views: dict[str, Kind] = {"pictures": "image", "speech": "sound", "text": "text"}
            return views[self.world.view]
        if self.layout == "idx" or "image" in self.fields:
            return "image"
        return "sound" if "sound" in self.fields else "text"

    def __post_init__(self) -> None:
        if (self.layout == "world") != (self.world is not None):
            raise ValueError("`world: {view: ..., train: ..., ...}` belongs to layout world, and to it alone")
        if self.layout in ("tar", "jsonl") and not {"image", "sound", "text"} & set(self.fields):
            raise ValueError(f"layout {self.layout} needs `fields` that name an image, a sound or a text")
        if self.layout not in ("tar", "jsonl") and self.fields:
            raise ValueError(f"layout {self.layout} knows its fields: leave `fields` out")
        if self.layout == "jsonl" and set(MEDIA) & set(self.fields):
            raise ValueError("JSON lines hold text: pictures and sound come in layout tar")
        if set(MEDIA) <= set(self.fields):
            raise ValueError("a record holds an image or a sound, not both")
        if "train" in self.held_out or "train" not in (self.splits or {"train": ""}):
            raise ValueError("`splits` names the train files; `held_out` takes valid and test from them")
        if both := set(self.splits) & set(self.held_out):
            raise ValueError(f"{sorted(both)[0]} is given both in `splits` and in `held_out`")
