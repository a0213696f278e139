"""The views of the generated world, as records for the shards.

A further view (clips, questions, preferences) is one more function in VIEWS, over the same scenes.
"""

from collections.abc import Callable, Iterator
from typing import Any

from components.data.config import World
from components.data.shards import SPLITS, Record
from components.data.world.captions import english, form, japanese
from components.data.world.draw import draw
from components.data.world.scenes import COLOURS, SHAPES, Scene, changed, details, scenes
from components.data.world.speak import speak


def generate(world: World, seed: int) -> Iterator[tuple[str, Record]]:
    """(split, record) for every scene of the view, split by split."""
    for split in SPLITS:
        for scene in scenes(seed, split, getattr(world, split)):
            if len(scene.things) <= world.objects:
                for record in VIEWS[world.view](scene, world):
                    yield split, record


def pictures(scene: Scene, world: World) -> Iterator[Record]:
    """The picture, both captions, and `changed` (English): captions with one attribute changed, which are wrong."""
    wording = form(details(scene, "captions"))
    fields: dict[str, Any] = {
        "text": english(scene, wording),
        "text_ja": japanese(scene, wording),
        "label": _label(scene, world),
        "changed": [english(other, wording) for other in changed(scene, details(scene, "changed"))],
    }
    yield Record(scene.key, fields, draw(scene, world.image_size, details(scene, "pictures")), "png")


def text(scene: Scene, world: World) -> Iterator[Record]:
    """Two records, one a language. Objects are mentioned in any order, so that finding the uppermost one takes more
    than a bag of words."""
    wording, label = form(details(scene, "captions")), _label(scene, world)
    for language, caption in (("en", english(scene, wording)), ("ja", japanese(scene, wording))):
        yield Record(f"{scene.key}-{language}", {"text": caption, "language": language, "label": label})


def speech(scene: Scene, world: World) -> Iterator[Record]:
    """The English caption spoken; `text` is the transcript, without commas."""
    caption = english(scene, form(details(scene, "captions")))
    spoken = speak(scene, caption, world.rate, world.noise, details(scene, "speech"))
    fields = {"text": caption.replace(",", ""), "voice": spoken.voice, "label": _label(scene, world)}
    yield Record(scene.key, fields, spoken.wav, "wav")


VIEWS: dict[str, Callable[[Scene, World], Iterator[Record]]] = {"pictures": pictures, "text": text, "speech": speech}


def classes(world: World) -> tuple[str, ...]:
    """All labels that a view can hold, whether few scenes show them or not."""
    return {"shape": SHAPES, "colour": COLOURS, "count": ("1", "2", "3")[: world.objects]}[world.label]


def _label(scene: Scene, world: World) -> str:
    return str(len(scene.things)) if world.label == "count" else getattr(scene.uppermost, world.label)
