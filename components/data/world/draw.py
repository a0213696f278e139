"""Scenes as pictures: objects at jittered places, sizes, angles and shades on a textured background.

Objects are drawn at four times the size and reduced, which softens their edges. 20,000 pictures of 64 pixels take about
25 s of one core.
"""

import io
import math
import zlib

import numpy as np
from PIL import Image, ImageDraw

from components.data.world.scenes import Scene, Thing

SHADES = {  # sRGB
    "red": (214, 40, 40),
    "green": (46, 150, 60),
    "blue": (40, 80, 210),
    "yellow": (240, 215, 50),
    "orange": (240, 130, 30),
    "purple": (135, 55, 170),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
RADII = {"small": 0.1, "big": 0.15}  # of the picture's side
JITTER = 0.03  # of the side: how far an object strays from the middle of its ninth
OVER = 4  # drawn this many times larger


def draw(scene: Scene, size: int, rng: np.random.Generator) -> bytes:
    """A PNG, RGB, `size` x `size` pixels."""
    picture = _background(size, rng)
    for thing in scene.things:
        row, column = divmod(thing.place, 3)
        radius = RADII[thing.size] * rng.uniform(0.9, 1.1) * size
        x, y = ((np.array([column, row]) + 0.5) / 3 + rng.uniform(-JITTER, JITTER, 2)) * size
        shade = np.clip(np.array(SHADES[thing.colour]) + rng.normal(0, 10, 3), 0, 255).astype(int)
        _paste(picture, thing, float(x), float(y), radius, float(rng.uniform(-0.25, 0.25)), tuple(shade.tolist()))
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)  # smaller here and twice as fast
    return file.getvalue()


def _background(size: int, rng: np.random.Generator) -> Image.Image:
    """Two layers of smooth noise, coarse and fine, around a muted shade, and faint stripes at a random angle."""
    base = rng.uniform(90, 165) + rng.normal(0, 12, 3)
    coarse = Image.fromarray(np.clip(base + rng.normal(0, 14, (4, 4, 3)), 0, 255).astype(np.uint8))
    fine = Image.fromarray((128 + rng.normal(0, 10, (size // 4, size // 4))).astype(np.uint8))
    layers = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    layers = layers + np.asarray(fine.resize((size, size), Image.Resampling.BILINEAR), np.float32)[..., None] - 128
    angle, wavelength = rng.uniform(0, math.pi), rng.uniform(0.08, 0.3) * size
    steps = np.arange(size, dtype=np.float32) * (2 * math.pi / wavelength)
    stripes = np.sin(steps[None] * math.cos(angle) + steps[:, None] * math.sin(angle)) * rng.uniform(0, 10)
    return Image.fromarray(np.clip(layers + stripes[..., None], 0, 255).astype(np.uint8))


def _paste(
    picture: Image.Image, thing: Thing, x: float, y: float, radius: float, angle: float, shade: tuple[int, ...]
) -> None:
    left, top = math.floor(x - radius) - 1, math.floor(y - radius) - 1
    side = math.ceil(2 * radius) + 3
    mask = Image.new("L", (side * OVER, side * OVER))
    _outline(ImageDraw.Draw(mask), thing.shape, (x - left) * OVER, (y - top) * OVER, radius * OVER, angle)
    picture.paste(shade, (left, top), mask.reduce(OVER))


def _outline(pen: ImageDraw.ImageDraw, shape: str, x: float, y: float, r: float, angle: float) -> None:
    def polygon(corners: list[tuple[float, float]]) -> None:  # corners: (radius, turn), turn 0 = up, 1 = all round
        turns = [(x + r * d * math.sin(2 * math.pi * t + angle), y - r * d * math.cos(2 * math.pi * t + angle))
                 for d, t in corners]  # fmt: skip
        pen.polygon(turns, fill=255)

    match shape:
        case "circle":
            pen.ellipse((x - r * 0.95, y - r * 0.95, x + r * 0.95, y + r * 0.95), fill=255)
        case "ring":
            pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
            pen.ellipse((x - r * 0.55, y - r * 0.55, x + r * 0.55, y + r * 0.55), fill=0)
        case "square":
            polygon([(1.15, (i + 0.5) / 4) for i in range(4)])
        case "triangle":
            polygon([(1.15, i / 3) for i in range(3)])
        case "star":
            polygon([(1.15 if i % 2 == 0 else 0.48, i / 10) for i in range(10)])
        case "cross":  # two bars: the corners of a plus, clockwise
            arm, corner, tilt = 1.05, 0.36 * math.sqrt(2), math.atan2(0.36, 1.0) / (2 * math.pi)
            polygon([p for i in range(4) for p in ((arm, i / 4 - tilt), (arm, i / 4 + tilt), (corner, (i + 0.5) / 4))])
