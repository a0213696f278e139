"""Parameters: every mistake is one line with the key, the value, what is allowed, and the nearest known key."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Len

from flows.params import ParamsError, Reference, read


@dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Gt(0)]
    steps: Annotated[int, Interval(ge=1, le=100)] = 10
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.warmup >= self.steps:
            raise ValueError(f"warmup {self.warmup} must be below steps {self.steps}")


@dataclass(frozen=True)
class Other:
    model: Literal["tiny", "base"]
    pretrained: bool = False


@dataclass(frozen=True)
class Everything:
    inner: Inner
    kind: Literal["small", "large", 3] = "small"
    flag: bool = False
    name: str | None = None
    pair: tuple[float, Annotated[int, Ge(0)]] = (0.0, 0)
    many: tuple[str, ...] = ()
    numbers: Annotated[list[int], Len(1, 2)] = field(default_factory=lambda: [1])
    named: dict[str, Inner] = field(default_factory=dict)
    mixed: str | int | bool = 0
    either: Inner | Other | None = None
    source: Annotated[str, Reference("sources")] | None = None
    stage: str = "sources"
    run: Annotated[str, Reference("{stage}")] | None = None


def read_text(text: str, folder: Path, section: str = "job.a") -> Everything:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return read(section, Everything, str(path))


def job(extra: str) -> str:
    return f"sources: {{digits: 1, letters: 2}}\ntrainings: {{one: 1}}\njob:\n  a: {{inner: {{rate: 1e-3}}{extra}}}\n"


def test_values_come_out_typed(tmp_path: Path) -> None:
    text = (
        ", flag: true, name: ja 日本, pair: [1, 2], many: [x, y], numbers: [4, 5], mixed: true, named: {k: {rate: 2}}"
    )
    read_back = read_text(job(text), tmp_path)
    assert read_back == Everything(
        Inner(0.001), "small", True, "ja 日本", (1.0, 2), ("x", "y"), [4, 5], {"k": Inner(2.0)}, True
    )
    assert isinstance(read_back.pair[0], float)
    assert isinstance(read_back.named["k"].rate, float)
    assert read_text(job(", name: null, kind: 3"), tmp_path).kind == 3
    assert read_text(job(", either: {model: tiny}"), tmp_path).either == Other("tiny")


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("1E3", 1000.0), ("2", 2.0), (".inf", math.inf)])
def test_numbers_of_yaml_1_2(text: str, value: float, tmp_path: Path) -> None:
    assert read_text(f"job: {{a: {{inner: {{rate: {text}}}}}}}", tmp_path).inner.rate == value


def test_references_find_their_section(tmp_path: Path) -> None:
    assert read_text(job(", source: digits"), tmp_path).source == "digits"
    assert read_text(job(", stage: trainings, run: one"), tmp_path).run == "one"
    assert read_text(job(", run: letters"), tmp_path).run == "letters"  # the section by a sibling's default


MISTAKES = {
    ", falg: true": "job.a.falg = true: no such key: did you mean flag? known are inner, kind, flag,",
    ", flag: 1": "job.a.flag = 1: must be true or false",
    ", pair: [1, true]": "job.a.pair[1] = true: must be a whole number, at least 0",
    ", pair: [1]": "job.a.pair = [1]: must be a list of 2: a number, a whole number, at least 0",
    ", kind: lrage": 'job.a.kind = "lrage": must be one of "small", "large", 3; did you mean large?',
    ", kind: true": 'job.a.kind = true: must be one of "small", "large", 3',
    ", name: 3": "job.a.name = 3: must be a text",
    ", many: word": 'job.a.many = "word": must be a list, each a text',
    ", many: [x, null]": "job.a.many[1] = null: must be a text",
    ", numbers: []": "numbers = []: must be a list, each a whole number, 1 or more long and 2 or less long",
    ", numbers: [1.0]": "job.a.numbers[0] = 1.0: must be a whole number",
    ", named: {k: {rate: 0}}": "job.a.named.k.rate = 0.0: must be a number, above 0",
    ", named: {k: {rate: .nan}}": "job.a.named.k.rate = NaN: must be a number, above 0",
    ", named: {k: {rate: 1, steps: 101}}": "named.k.steps = 101: must be a whole number, at least 1 and at most 100",
    ", named: {k: {rate: 1, warmup: 10}}": "job.a.named.k: warmup 10 must be below steps 10",
    ", named: {k: {}}": "job.a.named.k.rate is missing: it must be a number, above 0",
    ", named: {k: 3}": "job.a.named.k = 3: must be a mapping with the keys rate, steps, warmup",
    ", named: {7: {rate: 1}}": "job.a.named key = 7: must be a text",
    ", mixed: 2.5": "job.a.mixed = 2.5: must be a text or a whole number or true or false",
    ", either: {rate: 1, stepz: 3}": "either.stepz = 3: no such key: did you mean steps?",
    ", either: {model: bas}": 'either.model = "bas": must be one of "tiny", "base"; did you mean base?',
    ", either: 3": "either = 3: must be a mapping with the keys rate, steps, warmup or a mapping with the keys model,",
    ", source: digit": 'source = "digit": sources has no such key: did you mean digits? known are digits, letters',
    ", stage: trainings, run: two": 'job.a.run = "two": trainings has no such key: known are one',
    ", stage: nowhere, run: two": 'job.a.run = "two": nowhere has no such key: it is empty',
    ", name: 2020-01-02": 'job.a.name = "2020-01-02": must be a text',
}


@pytest.mark.parametrize(("extra", "message"), MISTAKES.items())
def test_a_mistake_is_one_line(extra: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ParamsError) as error:
        read_text(job(extra), tmp_path)
    assert str(error.value).startswith(f"{tmp_path}/params.yaml: job.a")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


FILES = {
    "a: 1\na: 2\n": 'line 2: found duplicate key "a"',
    "a: [1\n": "line 2: expected ',' or ']'",
    "a: !!python/name:os.system x": "could not determine a constructor for the tag",
    "a: \x00": "unacceptable character #x0000",
    "- 1\n": "holds [1], not a mapping",
    "": "holds null, not a mapping",
    "jobs: {a: 1}": "job.a: params.yaml has no key job: did you mean jobs? known are jobs",
    "job: {b: 1}": "job.a: job has no key a: known are b",
    "job: 3": "job.a: job has no key a: it is empty",
}


@pytest.mark.parametrize(("text", "message"), FILES.items())
def test_a_bad_file_is_one_line(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"^params\.yaml: ") as error:
        read("job.a", Everything)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"No such file or directory: run in the repository root"):
        read("job.a", Everything, str(tmp_path / "params.yaml"))
    (tmp_path / "params.yaml").write_bytes("a: 日本".encode("shift-jis"))
    with pytest.raises(ParamsError, match=r"byte 3 is not UTF-8"):
        read("job.a", Everything, str(tmp_path / "params.yaml"))
