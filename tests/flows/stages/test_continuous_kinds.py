"""mix, drift and compare for each kind of model but the classifier of texts (test_continuous.py): towers, a recogniser,
a decoder and a classifier of pictures, each trained a little on one population and on that with a shifted one."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.data.tokenizer import EOS
from flows.stages import compare, drift
from tests.flows.stages.kinds import FILES, MEDIA, MIXED, SLICED, TRAINED, build
from tests.flows.stages.small import inside, report, run, sounds, split

pytestmark = pytest.mark.slow  # eight models are trained, half a minute


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("project"))


@pytest.fixture(autouse=True)
def _there(project: Path) -> Iterator[None]:
    torch.set_num_threads(1)
    with inside(project):
        yield


def contents(source: str, name: str, medium: str) -> list[tuple[str, str]]:
    """The bytes of each record's file (or its text), and its fields but those that a mixture gives."""
    found = []
    for record in split(source, name):
        data = record[medium] if isinstance(record[medium], bytes) else record[medium].encode()
        fields = {key: value for key, value in record.items() if key not in ("key", "origin", medium)}
        if "label" in fields:
            fields["label"] = split(source, name).classes[fields["label"]]
        found.append((hashlib.sha256(data).hexdigest(), json.dumps(fields, sort_keys=True)))
    return found


@pytest.mark.parametrize("name", MEDIA)
def test_a_mixture_holds_all_that_is_new_and_a_share_of_the_old_byte_by_byte(name: str) -> None:
    for part in ("train", "valid", "test"):
        old, new = (contents(f"{name}_{side}", part, MEDIA[name]) for side in ("old", "new"))
        both = contents(f"{name}_both", part, MEDIA[name])
        origins = [record["origin"] for record in split(f"{name}_both", part)]
        kept = [each for each, origin in zip(both, origins, strict=True) if origin == f"{name}_old"]
        assert [each for each, origin in zip(both, origins, strict=True) if origin == f"{name}_new"] == new
        rest = iter(old)
        assert kept == old if part == "test" else all(each in rest for each in kept), "in their order"
        assert len(origins) == len(kept) + len(new)
    counts = report("mix", f"{name}_both", "metrics.json")
    assert abs(counts["train_old"] / len(split(f"{name}_old", "train")) - 0.5) < 0.2
    assert report("validate", f"{name}_both", "metrics.json")["bad"] == 0


@pytest.mark.parametrize("name", [name for name in MEDIA if "again" in MIXED[name]])
def test_a_mixture_of_a_mixture_still_says_where_a_record_came_from_first(name: str) -> None:
    records = list(split(f"{name}_again", "test"))
    assert len(records) == sum(len(split(f"{name}_{side}", "test")) for side in ("both", "same"))
    assert {record["origin"] for record in records} == {f"{name}_{side}" for side in FILES}
    assert len({record["key"] for record in records}) == len(records)


@pytest.mark.parametrize(
    ("stage", "shifted", "unshifted"),
    [
        ("train_clip", {"brightness", "embedding"}, {"side, pixels", "words of the text", "label"}),
        pytest.param("train_image", {"embedding"}, {"label"}, marks=pytest.mark.slow),  # else as the towers
        ("train_speech", {"loudness, dB"}, {"seconds", "middle of the spectrum, Hz", "words of the text"}),
        ("train_decoder", {"rarity of words, bits", "characters"}, {"words"}),
    ],
)
def test_what_was_shifted_has_drifted_and_nothing_else(stage: str, shifted: set[str], unshifted: set[str]) -> None:
    assert run(drift, f"{stage}_same") == run(drift, f"{stage}_new") == 0
    assert report("drift", f"{stage}_same", "metrics.json")["drifted"] == 0
    rows = report("drift", f"{stage}_new", "rows.json")
    drifted = {row["feature"] for row in rows if row["drifted"]}
    assert shifted <= drifted
    assert not unshifted & drifted and unshifted <= {row["feature"] for row in rows}
    assert ("embedding" in {row["feature"] for row in rows}) == (stage != "train_decoder")


def test_loudness_and_brightness_are_those_of_the_samples(tmp_path: Path) -> None:
    from components.evaluation.drift_records import of_image, of_sound

    half = np.zeros((4, 4, 3), np.uint8)
    half[:, :2] = 255
    from PIL import Image

    Image.fromarray(half).save(tmp_path / "half.png")
    figures = of_image({"image": (tmp_path / "half.png").read_bytes()})
    assert figures == pytest.approx(
        {"brightness": 0.5, "contrast": 0.5, "saturation": 0.0, "sharpness": 4 / 24, "side, pixels": 4.0}
    )
    (data, _), (louder, _) = sounds(1, 0, 0.05, "FLAC")[0], sounds(1, 0, 0.5, "FLAC")[0]
    quiet, loud = of_sound({"sound": data}), of_sound({"sound": louder})
    assert loud["loudness, dB"] - quiet["loudness, dB"] == pytest.approx(20, abs=0.1)
    assert quiet["seconds"] == 0.4


def by_hand(stage: str, model: Any, records: list[dict[str, Any]], classes: list[str]) -> list[tuple[float, float]]:
    """What each record adds to the figure's numerator and denominator, one record (or token) at a time."""
    if stage == "train_clip":
        distinct = list(dict.fromkeys(record["text"] for record in records))
        captions = torch.cat([model.embed_texts([caption]) for caption in distinct])
        found = []
        for record in records:
            scores = (model.embed_images([record])[0] @ captions.T).tolist()
            own = scores.pop(distinct.index(record["text"]))
            found.append((float(max(scores) < own), 1.0))
        return found
    if stage == "train_image":
        best = [model.classes[int(model.classify([record])[0].argmax())] for record in records]
        return [(float(b == classes[record["label"]]), 1.0) for b, record in zip(best, records, strict=True)]
    if stage == "train_speech":
        pairs = [(record["text"].split(), model.transcribe([record])[0].split()) for record in records]
        return [(float(distance(*pair)), float(len(pair[0]))) for pair in pairs]
    return [tuple(each) for each in bits(model, [record["text"] for record in records])]


def distance(wanted: list[str], said: list[str]) -> int:
    """Levenshtein's, of words."""
    row = list(range(len(said) + 1))
    for i, word in enumerate(wanted, 1):
        above = row
        row = [i]
        for j, other in enumerate(said, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def bits(model: Any, lines: list[str]) -> np.ndarray:
    """Bits and bytes of each text with its separator: token by token, windows moving on by half a context of 24."""
    row, found = [EOS], np.zeros((len(lines), 2))
    for number, line in enumerate(lines):
        for token in (*model.tokenizer.encode(line, add_special_tokens=False).ids, EOS):
            guess = len(row) - 1
            start = 0 if guess < 24 else 12 * ((guess - 24) // 12 + 1)
            with torch.no_grad():
                logits = model.decoder(torch.tensor([row[start:]]))[0, -1]
            found[number] += -logits.log_softmax(0)[token].item() / np.log(2), 0
            row.append(token)
        found[number, 1] = len(line.encode()) + 1
    return found


@pytest.mark.parametrize("stage", TRAINED)
def test_figures_are_those_of_the_records_one_by_one(stage: str) -> None:
    module, _, name = TRAINED[stage]
    assert run(compare, f"{stage}_both") == 0
    gate = report("compare", f"{stage}_both", "gate.json")
    sign = 1 if gate["better"] == "higher" else -1
    assert sign == (-1 if stage in ("train_speech", "train_decoder") else 1)
    models = [module.load(Path("models", stage, side), torch.device("cpu")) for side in ("old", "both")]
    for side, source in (("fresh", f"{name}_new"), ("frozen", f"{name}_both")):
        test = split(source, "test")
        records = list(test)
        classes = test.classes if name == "pictures" else []
        champion, challenger = (np.array(by_hand(stage, model, records, classes)) for model in models)
        figures, total = gate[side], champion[:, 1].sum()
        assert figures["champion"] == pytest.approx(champion[:, 0].sum() / total, rel=1e-4)
        assert figures["challenger"] == pytest.approx(challenger[:, 0].sum() / total, rel=1e-4)
        gains = sign * (challenger - champion)[:, 0]
        assert figures["gain"]["value"] == pytest.approx(gains.sum() / total, rel=1e-3, abs=1e-6)
        fields = ("origin", SLICED[name]) if side == "frozen" else (SLICED[name],)
        values = {f"{field}={record[field]}" for field in fields for record in records}
        assert set(figures["slices"]) == values
        for key, cut in figures["slices"].items():
            field, value = key.split("=")
            which = np.array([record[field] == value for record in records])
            assert cut["count"] == which.sum()
            expected = gains[which].sum() / champion[which, 1].sum()
            assert cut["gain"]["value"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert gate["fresh"]["gain"]["low"] > 0, "it learned for longer, and from these"
    assert gate["passed"], gate["reasons"]
    assert 0 < gate["latency"]["ratio"] < 9


@pytest.mark.parametrize("stage", TRAINED)
def test_a_champion_does_not_beat_itself(stage: str) -> None:
    assert run(compare, f"{stage}_itself") == 0
    gate = report("compare", f"{stage}_itself", "gate.json")
    assert not gate["passed"]
    assert gate["fresh"]["gain"] == gate["frozen"]["gain"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert [reason.partition(":")[0] for reason in gate["reasons"]] == ["no sure gain on new data"]


def test_captions_of_another_name() -> None:
    assert run(compare, "captions") == 0
    assert report("compare", "captions", "gate.json")["fresh"]["count"] == len(split("bare", "test"))


@pytest.mark.parametrize(
    ("module", "key", "said"),
    [
        (compare, "no_captions", "source bare has no field text"),
        (compare, "unlabelled", "source bare has no field label"),
        (compare, "empty", "source whole has no test record"),
        (drift, "deaf", "a model of train_speech reads the field sound"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(
    module: Any, key: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(module, key) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
