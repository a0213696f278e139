"""Captions in English and Japanese, from which the scene can be read back: distinct scenes never share a caption.

The objects are mentioned in the scene's order, in one of a few forms: the place behind each object or before it, with
or without a lead-in.
"""

import numpy as np

from components.data.world.scenes import Scene, Thing

PLACES_EN = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
PLACES_JA = ("左上", "上", "右上", "左", "真ん中", "右", "左下", "下", "右下")
SHAPES_JA = {"circle": "丸", "square": "四角", "triangle": "三角", "star": "星", "cross": "十字", "ring": "輪"}
COLOURS_JA = {
    "red": "赤い",
    "green": "緑の",
    "blue": "青い",
    "yellow": "黄色い",
    "orange": "オレンジの",
    "purple": "紫の",
    "white": "白い",
    "black": "黒い",
}
SIZES_JA = {"small": "小さい", "big": "大きい"}
FORMS = 3


def english(scene: Scene, form: int) -> str:
    """Forms: 0 `a small red star at the top left and ...`, 1 `there is a ...`, 2 `at the top left a small red star`."""
    phrases = [_english(thing, form) for thing in scene.things]
    listed = phrases[-1] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return f"there is {listed}" if form == 1 else listed


def japanese(scene: Scene, form: int) -> str:
    """Forms: 0 `左上に小さい赤い星、...`, 1 the same with `があります`, 2 `小さい赤い星が左上、...にあります`."""
    if form == 2:
        return "、".join(f"{_japanese(thing)}が{PLACES_JA[thing.place]}" for thing in scene.things) + "にあります"
    listed = "、".join(f"{PLACES_JA[thing.place]}に{_japanese(thing)}" for thing in scene.things)
    return f"{listed}があります" if form == 1 else listed


def form(rng: np.random.Generator) -> int:
    return int(rng.integers(FORMS))


def _english(thing: Thing, form: int) -> str:
    what, where = f"a {thing.size} {thing.colour} {thing.shape}", f"at the {PLACES_EN[thing.place]}"
    if thing.place == 4:
        where = "in the middle"
    return f"{where} {what}" if form == 2 else f"{what} {where}"


def _japanese(thing: Thing) -> str:
    return f"{SIZES_JA[thing.size]}{COLOURS_JA[thing.colour]}{SHAPES_JA[thing.shape]}"
