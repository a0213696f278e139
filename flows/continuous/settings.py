"""continuous.yaml: which models retrain themselves, on what, and by which rules; an entry a name.

    text:                          # a model under `artifacts` in dvc.yaml
      train: finetune_text.world   # the entry of params.yaml that trains it; its `source` becomes the mixed one
      source:                      # as under `sources` in params.yaml; `path` is where new data arrive, also s3://...
        layout: jsonl
        path: data/incoming/text
        splits: {train: "*.jsonl"}
        fields: {text: text, label: label}
        held_out: {valid: {share: 0.1}, test: {share: 0.2}}
        tolerate: 0.01
      replay: 0.5
      drift: {effect: 0.1}         # what the stages `drift` and `compare` take beside their defaults
      compare: {rule: {forget: 0.02}}
      experiment: {...}            # components/inference/experiment/config.py: Design, without id, share and mode

What the stages take is checked by the stages, once it stands in a workspace's params.yaml.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval, MinLen

from components.data.config import Source
from components.inference.experiment.config import Design, Mode, design
from flows.params import ParamsError, build, load, nearest
from flows.workspace import Refused

FILE = "continuous.yaml"
FREE = ("drift", "compare", "experiment")  # mappings of others' keys


@dataclass(frozen=True)
class Settings:
    """How one model is retrained."""

    train: Annotated[str, MinLen(3)]  # STAGE.RUN
    source: Source
    replay: Annotated[float, Interval(ge=0, le=1)] = 0.5  # share of the old records beside all new ones
    mode: Mode = "canary"  # a shadow is judged by its guardrails alone (shadow.py)
    share: Annotated[float, Interval(gt=0, lt=1)] = 0.5  # of the users, who see a canary; of the requests for a shadow
    look: Annotated[float, Interval(gt=0)] = 60.0  # seconds between two looks at the experiment
    patience: Annotated[float, Interval(gt=0)] = 14 * 86400.0  # seconds after which it ends without a verdict
    window: Annotated[int, Interval(ge=50)] = 500  # requests, and outcomes, that the watch looks at together
    keep_days: Annotated[float, Interval(gt=0)] = 365.0  # of traffic that nobody judged (Traffic.forget)
    main: str = "main"  # the branch that a promotion moves
    notify: str = ""  # an address that gets the outcome as JSON, by POST; empty: none
    entry: dict[str, Any] = field(default_factory=dict)  # all of it, as it stands in the file
    drift: dict[str, Any] = field(default_factory=dict)
    compare: dict[str, Any] = field(default_factory=dict)
    experiment: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.train.count(".") != 1:
            raise ValueError(f"train = {self.train!r}: name stage and run, as in finetune_text.world")
        if not {"valid", "test"} <= {*self.source.splits, *self.source.held_out}:
            raise ValueError("source: hold some records out for valid and test: held_out: {valid: {share: 0.1}, ...}")

    def watched(self, root: Path) -> str:
        """Where new data arrive: an address, or an absolute path."""
        return self.source.path if "://" in self.source.path else str(root / self.source.path)

    def design(self, experiment: str) -> Design:
        """The experiment under an id. ValueError where it does not fit."""
        return design({**self.experiment, "experiment": experiment, "share": self.share, "mode": self.mode})


def models(root: Path) -> list[str]:
    """The models that retrain themselves; none where there is no file."""
    return sorted(load(str(root / FILE))) if (root / FILE).exists() else []


def read_settings(root: Path, name: str) -> Settings:
    """The entry of a name. Refused: there is none, or it does not fit."""
    try:
        content = load(str(root / FILE))
        entry = content.get(name)
        if not isinstance(entry, dict):
            raise ParamsError(f"{FILE}: no model {name!r}{nearest(name, content)}")
        if "entry" in entry:
            raise ParamsError(f"{FILE}: {name}.entry: no such key")
        free = {key: entry.get(key) or {} for key in FREE}
        own = {key: value for key, value in entry.items() if key not in FREE}
        built = build(name, Settings, {name: own}, FILE)
        settings = Settings(**{**vars(built), **free, "entry": entry})
        settings.design(name)
    except (ParamsError, ValueError) as error:
        raise Refused(str(error)) from None
    return settings
