"""What is compared of records of any kind: pictures and sounds by their files; for texts see drift_texts.py."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from components.data.config import Kind
from components.data.records import decode_image, decode_sound
from components.evaluation import drift_texts

QUIET = -80.0  # dB of full scale: what is below counts as silence
FRAME = 0.025  # s


def pieces(kind: Kind, reference: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Feature -> its values in both sets. Records in an order that says nothing."""
    found: dict[str, tuple[NDArray, NDArray]] = {}
    if kind != "text":
        measure = {"image": of_image, "sound": of_sound}[kind]
        found |= _measured(measure, reference, new)
    if all(isinstance(record.get("text"), str) for record in (*reference, *new)):
        texts = drift_texts.pieces([record["text"] for record in reference], [record["text"] for record in new])
        found |= {name if kind == "text" else f"{name} of the text": sides for name, sides in texts.items()}
    return found


def _measured(
    measure: Callable[[dict[str, Any]], dict[str, float]],
    reference: Sequence[dict[str, Any]],
    new: Sequence[dict[str, Any]],
) -> dict[str, tuple[NDArray, NDArray]]:
    before, after = ([measure(record) for record in side] for side in (reference, new))
    return {name: (np.array([r[name] for r in before]), np.array([r[name] for r in after])) for name in before[0]}


def of_image(record: dict[str, Any]) -> dict[str, float]:
    image = decode_image(record["image"]).float() / 255
    grey = image.mean(0)
    edges = torch.cat([grey.diff(dim=0).abs().flatten(), grey.diff(dim=1).abs().flatten()])
    return {
        "brightness": float(grey.mean()),
        "contrast": float(grey.std(correction=0)),
        "saturation": float((image.amax(0) - image.amin(0)).mean()),
        "sharpness": float(edges.mean()) if len(edges) else 0.0,
        "side, pixels": float(grey.numel() ** 0.5),
    }


def of_sound(record: dict[str, Any]) -> dict[str, float]:
    samples, rate = decode_sound(record["sound"])
    power = torch.fft.rfft(samples).abs() ** 2
    hertz = torch.fft.rfftfreq(len(samples), 1 / rate)
    frames = samples[: max(1, len(samples) // (size := max(1, round(FRAME * rate)))) * size].split(size)
    levels = torch.stack([_decibels(frame) for frame in frames])
    return {
        "seconds": len(samples) / rate,
        "loudness, dB": float(_decibels(samples)),
        "quietest tenth, dB": float(levels.quantile(0.1)),
        "middle of the spectrum, Hz": float((power * hertz).sum() / power.sum().clamp(min=1e-12)),
    }


def _decibels(samples: torch.Tensor) -> torch.Tensor:
    return (10 * samples.square().mean().clamp(min=1e-12).log10()).clamp(min=QUIET)
