"""A project of small sets of pictures, sounds and texts, their mixtures, and two models of each kind to learn them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.stages import mix, tokenizer, train_clip, train_decoder, train_image, train_speech
from tests.flows.stages.small import inside, pictures, run, serve, sounds, take_in, tar, texts

FIT = "batch_size: 16, warmup: 5, validate_every: 500, save_every: 500, seed: 1, learning_rate: 0.005"
HELD = "held_out: {valid: {share: 0.1}, test: {share: 0.3}}"
SPLITS = "splits: {train: 'train/*', valid: 'valid/*', test: 'test/*'}"
SHAPE = "transformer: {width: 32, depth: 1, heads: 2}"
IMAGE = f"{{size: 24, patch: 8, {SHAPE}}}"
SEEN = "text: json.text, label: json.label, artist: json.artist, changed: json.changed"
HEARD = "text: json.text, voice: json.voice"
READ = "text: text, language: language"
MEDIA = {"pictures": "image", "sounds": "sound", "texts": "text"}
FIELDS = {"pictures": SEEN, "sounds": HEARD, "texts": READ}
FILES = {"old": ("png", "wav"), "same": ("png", "flac"), "new": ("jpg", "aiff")}  # the last is no format of SIGNATURES
TRAINED: dict[str, tuple[Any, str, str]] = {  # stage, kind of server, what it learns from
    "train_clip": (train_clip, "search", "pictures"),
    "train_image": (train_image, "classifier", "pictures"),
    "train_speech": (train_speech, "recogniser", "sounds"),
    "train_decoder": (train_decoder, "decoder", "texts"),
}
MIXED = {"pictures": ("both", "again"), "sounds": ("both",), "texts": ("both", "again")}  # again: the mixture, mixed
SLICED = {"pictures": "artist", "sounds": "voice", "texts": "language"}
TRAIN = {
    "train_clip": f"tokenizer: bytes, space: 16, image: {IMAGE}, text: {{context: 48, {SHAPE}}}",
    "train_image": f"encoder: {IMAGE}",
    "train_speech": "head: ctc, encoder: {longest: 1.0, channels: 8, subsampling: 2, "
    f"features: {{rate: 8000, hop: 0.0125, mels: 16}}, {SHAPE}}}",
    "train_decoder": f"tokenizer: bytes, decoder: {{context: 24, {SHAPE}}}",
}
STEPS = {"train_clip": (8, 90), "train_image": (6, 40), "train_speech": (40, 130), "train_decoder": (30, 60)}


def sources(name: str) -> Iterator[str]:
    medium, layout = MEDIA[name], "jsonl" if name == "texts" else "tar"
    for side, (picture, sound) in FILES.items():
        file = {"pictures": f"image: {picture}, ", "sounds": f"sound: {sound}, "}.get(name, "")
        path = f"{name}_{side}.{layout}"
        yield f"  {name}_{side}: {{layout: {layout}, path: {path}, fields: {{{file}{FIELDS[name]}}}, {HELD}}}"
    file = {"pictures": "image: png|jpg, ", "sounds": "sound: wav|flac|sound, "}.get(name, "")
    origin = "origin: origin" if medium == "text" else "origin: json.origin"
    for key in MIXED[name]:
        yield (
            f"  {name}_{key}: {{layout: {layout}, path: data/mixed/{name}_{key}, {SPLITS}, "
            f"fields: {{{file}{FIELDS[name]}, {origin}}}}}"
        )


def entry(key: str, **values: Any) -> str:
    return f"  {key}: {json.dumps(values)}"


def params() -> str:
    lines = ["sources:", *(line for name in MEDIA for line in sources(name))]
    bare = f"layout: tar, path: pictures_old.tar, fields: {{image: png, caption: json.text}}, {HELD}"
    lines += [f"  bare: {{{bare}}}", "  whole: {layout: jsonl, path: texts_old.jsonl, fields: {text: text}}"]
    lines += ["tokenizer:", "  bytes: {english: texts_old, japanese: texts_new, vocabulary: 300}"]
    for stage, (_, _, name) in TRAINED.items():
        lines.append(f"{stage}:")
        for side, steps in zip(("old", "both"), STEPS[stage], strict=True):
            lines.append(f"  {side}: {{source: {name}_{side}, {TRAIN[stage]}, fit: {{steps: {steps}, {FIT}}}}}")
    lines.append("mix:")
    for name in MEDIA:
        lines.append(entry(f"{name}_both", old=f"{name}_old", new=f"{name}_new", replay=0.5))
        if "again" in MIXED[name]:
            lines.append(entry(f"{name}_again", old=f"{name}_both", new=f"{name}_same", replay=0.5))
    lines.append("drift:")
    for stage, (_, _, name) in TRAINED.items():
        for side in ("same", "new"):
            sides = {"reference": f"{name}_old", "new": f"{name}_{side}"}
            lines.append(entry(f"{stage}_{side}", model=f"models/{stage}/old", **sides))
    lines.append(entry("deaf", model="models/train_speech/old", reference="texts_old", new="texts_new"))
    lines.append("compare:")
    rule = {"slower": 9.0, "larger": 2.0, "forget": 9.0, "slice_loss": 9.0}
    for stage, (_, _, name) in TRAINED.items():
        for key, challenger in (("both", "both"), ("itself", "old")):
            folders = {"champion": f"models/{stage}/old", "challenger": f"models/{stage}/{challenger}"}
            sets = {"frozen": f"{name}_both", "fresh": f"{name}_new", "slices": ["origin", SLICED[name]]}
            lines.append(entry(f"{stage}_{key}", **folders, **sets, requests=10, samples=200, rule=rule))
    pair = {"champion": "models/train_clip/old", "challenger": "models/train_clip/both", "requests": 10}
    lines.append(entry("captions", **pair, frozen="bare", fresh="bare", caption="caption"))
    lines.append(entry("no_captions", **pair, frozen="pictures_old", fresh="bare"))
    pair = {"champion": "models/train_decoder/old", "challenger": "models/train_decoder/both", "requests": 10}
    lines.append(entry("empty", **pair, frozen="whole", fresh="texts_new"))
    pair = {"champion": "models/train_image/old", "challenger": "models/train_image/both", "requests": 10}
    lines.append(entry("unlabelled", **pair, frozen="bare", fresh="pictures_new"))
    return "\n".join(lines) + "\n"


def build(root: Path) -> Path:
    """Three sets of each medium, the last shifted; their mixtures; and two models of each kind."""
    for seed, (side, (picture, sound)) in enumerate(FILES.items()):
        light, level = (0.6, 0.3) if side == "new" else (0.0, 0.05)
        tar(root / f"pictures_{side}.tar", pictures(130, seed, light, picture), picture)
        tar(root / f"sounds_{side}.tar", sounds(130, seed, level, sound), sound)
        (root / f"texts_{side}.jsonl").write_text(texts(130, seed, "it" if side == "new" else "en"))
    (root / "params.yaml").write_text(params())
    with inside(root):
        take_in("bare", "whole")
        for name in MEDIA:
            take_in(*(f"{name}_{side}" for side in FILES))
            for key in MIXED[name]:
                assert run(mix, f"{name}_{key}") == 0
                take_in(f"{name}_{key}")
        assert run(tokenizer, "bytes") == 0
        for stage, (module, kind, _) in TRAINED.items():
            for side in ("old", "both"):
                assert run(module, side) == 0
                serve(Path("models", stage, side), stage, kind)
    return root
