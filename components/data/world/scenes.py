"""Scenes of the generated world: one to three objects, each with a shape, a colour, a size and a place of its own.

Scene i of a split depends on (seed, split, i) and, in valid and test, on the scenes before it (they are all distinct):
every view (pictures, captions, speech, and later clips, questions, preferences) draws the same scenes, and then its own
details from `details(scene, view)`.

Combinations are held out: of the 48 pairs of shape and colour, 36 occur in train; 8 (each colour once) make the test
split and 4 others the valid split, where each scene holds at least one such pair. A model that has learned shapes and
colours apart finds them; one that has learned pairs by heart does not.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
SIZES = ("small", "big")
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
PLACES = tuple(range(9))  # row * 3 + column, in reading order
COUNTS = (0.3, 0.4, 0.3)  # shares of scenes with one, two, three objects
SPLITS = ("train", "valid", "test")
Pair = tuple[str, str]


@dataclass(frozen=True)
class Thing:
    shape: str
    colour: str
    size: str
    place: int


@dataclass(frozen=True)
class Scene:
    """`things` stand in the order in which captions mention them (random)."""

    seed: int
    split: str
    number: int
    things: tuple[Thing, ...]

    @property
    def key(self) -> str:
        return f"{self.split}-{self.number:06d}"

    @property
    def uppermost(self) -> Thing:
        """The first in reading order: the labels' object."""
        return min(self.things, key=lambda thing: thing.place)


@cache
def pairs(seed: int, split: str) -> tuple[Pair, ...]:
    """The pairs of shape and colour that mark a split: all of train's, or the ones held out for valid or test."""
    rng = np.random.default_rng(seed)
    shapes, colours = rng.permutation(SHAPES).tolist(), rng.permutation(COLOURS).tolist()
    test = tuple((shapes[i % len(shapes)], colour) for i, colour in enumerate(colours))
    valid = tuple((shapes[(i + 3) % len(shapes)], colours[i]) for i in range(0, len(colours), 2))
    rest = tuple((s, c) for s in SHAPES for c in COLOURS if (s, c) not in test + valid)
    return {"train": rest, "valid": valid, "test": test}[split]


def scenes(seed: int, split: str, count: int) -> Iterator[Scene]:
    """The first `count` scenes of a split."""
    train, marked = pairs(seed, "train"), pairs(seed, split)
    seen: set[frozenset[Thing]] = set()
    for number in range(count):
        rng = np.random.default_rng((seed, SPLITS.index(split), number))
        things = _draw(rng, train, marked)
        while split != "train" and frozenset(things) in seen:
            things = _draw(rng, train, marked)
        seen.add(frozenset(things))
        yield Scene(seed, split, number, things)


def _draw(rng: np.random.Generator, train: tuple[Pair, ...], marked: tuple[Pair, ...]) -> tuple[Thing, ...]:
    count = 1 + int(rng.choice(3, p=COUNTS))
    places = rng.permutation(PLACES)[:count].tolist()
    chosen = [marked[rng.integers(len(marked))]] + [train[rng.integers(len(train))] for _ in range(count - 1)]
    things = []
    for which, place in zip(rng.permutation(count).tolist(), places, strict=True):
        shape, colour = chosen[which]
        things.append(Thing(shape, colour, SIZES[rng.integers(2)], place))
    return tuple(things)


def details(scene: Scene, view: str) -> np.random.Generator:
    """The generator of one view's own choices for a scene (jitter, wording, voice): views do not disturb each other."""
    return np.random.default_rng((scene.seed, SPLITS.index(scene.split), scene.number, *view.encode()))


def changed(scene: Scene, rng: np.random.Generator) -> list[Scene]:
    """The scene with one attribute of one object changed: its shape, colour, size and place, one variant each.

    In train no variant shows a pair of shape and colour that is held out, not even as a caption that is wrong.
    """
    variants = []
    allowed = pairs(scene.seed, "train") if scene.split == "train" else [(s, c) for s in SHAPES for c in COLOURS]
    taken = {thing.place for thing in scene.things}
    for name, values in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("place", PLACES)):
        which = int(rng.integers(len(scene.things)))
        thing = scene.things[which]
        others = [replace(thing, **{name: value}) for value in values if value != getattr(thing, name)]
        others = [o for o in others if (o.shape, o.colour) in allowed and (name != "place" or o.place not in taken)]
        other = others[rng.integers(len(others))]
        things = (*scene.things[:which], other, *scene.things[which + 1 :])
        variants.append(replace(scene, things=things))
    return variants
