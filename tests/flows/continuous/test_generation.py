"""A retraining prepared for sounds, pictures and labelled pictures in the format of MNIST: what it writes into
params.yaml is what the real stages then take in, mix and compare."""

import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from components.data.config import World
from components.data.tokenizer import train
from components.data.world.views import VIEWS, generate
from components.encoders.image_config import ImageConfig
from components.encoders.speech_config import FeaturesConfig, SpeechConfig
from components.encoders.text_config import TextConfig
from components.training.weights import save_model
from components.transformer.config import TransformerConfig
from flows.continuous import generation
from flows.continuous.generation import Generation
from flows.continuous.settings import read_settings
from flows.releases import registry
from flows.stages import compare, drift, mix, train_clip, train_image, train_speech
from flows.stages.train_speech import Hears
from flows.workspace import read_yaml
from tests.flows.stages.small import inside, pictures, report, run, serve, sounds, split, take_in, tar
from tests.flows.tools import commit, git

FIT = "fit: {steps: 2, batch_size: 4, warmup: 1, validate_every: 2, save_every: 2, seed: 1, learning_rate: 0.01}"
MACHINE = "threads: 1, device: cpu"
SMALL = "transformer: {width: 32, depth: 1, heads: 2}"
PARAMS = f"""
sources:
  spoken:
    {{layout: world, path: world,
      world: {{view: speech, train: 40, valid: 12, test: 12, objects: 1, rate: 8000}}}}
  seen:
    {{layout: tar, path: seen.tar, held_out: {{valid: {{share: 0.2}}, test: {{share: 0.3}}}},
     fields: {{image: png, text: json.text, label: json.label, changed: json.changed}}}}
  digits:
    {{layout: idx, path: digits, splits: {{train: "train*", valid: "valid*", test: "test*"}}, classes: [zero, one]}}
tokenizer: {{words: {{english: seen, japanese: seen, vocabulary: 300}}}}
train_speech:
  world:
    source: spoken
    head: ctc
    encoder: {{longest: 10.0, channels: 8, subsampling: 2, features: {{rate: 8000, hop: 0.0125, mels: 16}}, {SMALL}}}
    {FIT}
    threads: 1
    device: cpu
train_clip:
  world: {{source: seen, tokenizer: words, image: {{size: 24, patch: 8, {SMALL}}}, text: {{context: 48, {SMALL}}},
           {FIT}, {MACHINE}}}
train_image:
  world: {{source: digits, encoder: {{size: 24, patch: 8, {SMALL}}}, {FIT}, {MACHINE}}}
mix: {{}}
drift: {{}}
compare: {{}}
"""
CONTINUOUS = """
speech:
  train: train_speech.world
  source:
    layout: tar
    path: incoming
    splits: {train: "*.tar"}
    fields: {sound: flac|wav, text: json.text, speaker: json.voice}
    held_out: {valid: {share: 0.2}, test: {share: 0.3}}
  compare: {requests: 10, samples: 100, slices: [speaker, origin]}
  experiment: &experiment
    primary: [{name: accepted, kind: rate, better: higher, effect: 0.2, baseline: 0.5}]
    most_users: 4000
search:
  train: train_clip.world
  source:
    layout: tar
    path: incoming
    splits: {train: "*.tar"}
    fields: {image: jpg, text: json.text, label: json.artist}
    held_out: {valid: {share: 0.2}, test: {share: 0.3}}
  replay: 0.0
  experiment: *experiment
image:
  train: train_image.world
  source:
    layout: idx
    path: incoming
    splits: {train: "train*", valid: "valid*", test: "test*"}
  experiment: *experiment
"""
STAGES = {
    "ingest": ("sources", "data/shards/${key}"),
    "validate": ("sources", "data/index/${key}"),
    "tokenizer": ("tokenizer", "data/tokenizers/${key}"),
    "mix": ("mix", "data/mixed/${key}"),
    **{name: (name, f"models/{name}/${{key}}") for name in ("train_speech", "train_clip", "train_image")},
    **{name: (name, f"reports/{name}/${{key}}") for name in ("drift", "compare")},
}
NAMES = ("speech", "search", "image")
SHAPE = TransformerConfig(32, 1, 2)


def graph() -> str:
    stages: dict[str, Any] = {
        name: {"foreach": f"${{{section}}}", "do": {"cmd": f"python -m flows.stages.{name} ${{key}}", "outs": [out]}}
        for name, (section, out) in STAGES.items()
    }
    for name in NAMES:
        folder = f"models/optimise/{name}"
        stages[f"made_{name}"] = {"cmd": f"mkdir -p models/optimise && cp -r made/{name} {folder}", "outs": [folder]}
    artifacts = {name: {"path": f"models/optimise/{name}", "type": "model"} for name in NAMES}
    return json.dumps({"stages": stages, "artifacts": artifacts})


def digits(folder: Path, count: int, seed: int) -> Path:
    """MNIST's two files a split: grey squares, the light ones are ones."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in ("train", "valid", "test"):
        labels = rng.integers(2, size=count).astype(np.uint8)
        shades = rng.integers(100, size=(count, 24, 24)).astype(np.uint8) + 150 * labels[:, None, None]
        for kind, data in (("images", shades), ("labels", labels)):
            shape = b"".join(size.to_bytes(4, "big") for size in data.shape)
            (folder / f"{name}-{kind}").write_bytes(bytes([0, 0, 8, data.ndim]) + shape + data.tobytes())
    return folder


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, blank: Path) -> Path:
    """A repository with a champion of each name, with weights as drawn."""
    from dvc.repo import Repo

    root = tmp_path_factory.mktemp("checkout") / "project"
    shutil.copytree(blank, root)
    for path, text in {"dvc.yaml": graph(), "params.yaml": PARAMS, "continuous.yaml": CONTINUOUS}.items():
        (root / path).write_text(text)
    (root / ".gitignore").write_text("/data\n/models\n/reports\n/runs\n/.store\n")
    tar(root / "seen.tar", pictures(30, 0), "png")
    digits(root / "digits", 20, 0)
    torch.manual_seed(0)
    speech = SpeechConfig(SHAPE, 10.0, channels=8, features=FeaturesConfig(rate=8000, mels=16))
    image, text, letters = ImageConfig(SHAPE, size=24, patch=8), TextConfig(SHAPE, 48), list(" aeiou")
    models: dict[str, tuple[Any, dict[str, Any]]] = {
        "speech": (Hears("ctc", speech, letters), {"head": "ctc", "encoder": asdict(speech), "names": letters}),
        "search": (train_clip.make(image, text, 16, train(["red"] * 9, 262)), {"image": asdict(image)}),
        "image": (SimpleNamespace(model=train_image.make(image, 2, 0.0)), {"classes": ["zero", "one"]}),
    }
    for name, (model, about) in models.items():
        save_model(root / "made" / name, model.model, about)
    serve(root / "made" / "speech", "train_speech", "recogniser")
    with chdir(root), Repo(".") as repo:
        repo.reproduce([f"made_{name}" for name in NAMES])
    commit(root)
    git(root, "branch", "-M", "main")
    for name in NAMES:
        version = registry.register(root, name, "main")
        registry.assign(root, name, version, "champion")
    return root


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """New data of each name."""
    root = tmp_path_factory.mktemp("arrived")
    for name in ("speech", "search"):
        (root / name).mkdir()
    tar(root / "speech" / "new.tar", sounds(30, 1, 0.3, "FLAC"), "flac")
    tar(root / "search" / "new.tar", pictures(30, 1, 0.5, "jpg"), "jpg")
    digits(root / "image", 20, 1)
    return root


def prepared(checkout: Path, arrived: Path, name: str) -> Generation:
    settings = read_settings(checkout, name)
    made = Generation.of(checkout, name, "0123456789abcdef", settings)
    generation.prepare(made, settings, arrived / name)
    return made


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "fields", "classes"),
    [
        ("speech", {"sound": "wav|flac|ogg|sound", "text": "json.text", "origin": "json.origin"}, None),
        ("search", {"image": "png|jpg|jpeg|webp", "text": "json.text", "origin": "json.origin"}, None),
        (
            "image",
            {"image": "png|jpg|jpeg|webp", "label": "json.label", "origin": "json.origin"},
            ["zero", "one"],
        ),
    ],
)
def test_what_is_prepared_is_what_the_stages_take(
    checkout: Path, arrived: Path, name: str, fields: dict[str, str], classes: list[str] | None
) -> None:
    made = prepared(checkout, arrived, name)
    params = read_yaml(made.folder / "params.yaml")
    stage, key = read_settings(checkout, name).train.split(".")
    old = read_yaml(checkout / "params.yaml")[stage][key]["source"]
    mixed = params["sources"][made.mixed]
    assert params[stage][key]["source"] == made.mixed
    assert dict(mixed["fields"]) == fields
    assert mixed.get("classes") == classes == params["sources"][made.new].get("classes")
    head = git(made.folder, "rev-parse", "HEAD")
    prepared(checkout, arrived, name)
    assert git(made.folder, "rev-parse", "HEAD") == head, "once is enough"

    with inside(made.folder):
        take_in(old, made.new)
        assert run(mix, made.new) == 0
        take_in(made.mixed)
        replay = params["mix"][made.new]["replay"]
        for part in ("train", "valid", "test"):
            records = list(split(made.mixed, part))
            origins = [record["origin"] for record in records]
            assert origins.count(made.new) == len(split(made.new, part)) > 0
            share = 1.0 if part == "test" else replay
            if share in (0, 1):
                assert origins.count(old) == share * len(split(old, part))
            else:
                assert abs(origins.count(old) - share * len(split(old, part))) <= 4
            assert all({*fields} <= {*record} for record in records)
        assert report("validate", made.mixed, "metrics.json")["bad"] == 0


@pytest.mark.slow  # a quarter of a minute alone, a half beside others
def test_sounds_go_all_the_way_to_the_gate(checkout: Path, arrived: Path) -> None:
    """The champion is brought from the cache, the challenger is trained a little."""
    from dvc.repo import Repo

    made = prepared(checkout, arrived, "speech")
    with inside(made.folder):
        with Repo(".") as repo:
            repo.checkout([f"pinned/{made.champion}.dvc"])
        pinned = Path("pinned", made.champion)
        for path in (checkout / "made" / "speech").iterdir():
            assert (pinned / path.name).read_bytes() == path.read_bytes()
        take_in("spoken", made.new)
        assert run(mix, made.new) == 0
        take_in(made.mixed)
        assert run(train_speech, "world") == 0
        serve(Path("models/train_speech/world"), "train_speech", "recogniser")
        shutil.copytree("models/train_speech/world", "models/optimise/speech", dirs_exist_ok=True)
        assert run(drift, "speech") == run(compare, "speech") == 0
        told = {row["feature"] for row in report("drift", "speech", "rows.json") if row["drifted"]}
        assert "seconds" in told, "two tones are shorter than a sentence"
        gate = report("compare", "speech", "gate.json")
        speakers = {f"speaker={record['speaker']}" for record in split(made.new, "test")}
        assert set(gate["fresh"]["slices"]) <= speakers and gate["fresh"]["slices"]
        assert gate["frozen"]["count"] == len(split("spoken", "test"))
        assert gate["frozen"]["slices"] == {}, "the old ones name no speaker"


@pytest.mark.parametrize("view", VIEWS)
def test_records_of_the_generated_world_are_as_a_retraining_takes_them(view: Any) -> None:
    _, record = next(generate(World(view, train=40, valid=1, test=1), 1))
    medium = {"png": ("image",), "wav": ("sound",), "": ()}[record.extension]
    assert (*medium, *record.fields) == generation.WORLD[view]
