"""A model as the server gets it: what it is for, and the object that a stage's `load` built. Free of torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

Kind = Literal["decoder", "search", "recogniser", "classifier"]
ABOUT = "serve.json"


@dataclass(frozen=True)
class About:
    """What serve.json says of a folder."""

    stage: str  # that wrote the folder
    kind: Kind
    variant: str  # plain, or how it was made faster (components/inference/variants.py)


@dataclass(frozen=True)
class Served:
    """`model` by kind has

    decoder: `decoder`, `tokenizer`
    search: `embed_images(records)`, `embed_texts(texts)`, `tokenizer`, `context`
    recogniser: `transcribe(records)`, `config`
    classifier: `classify(records)`, `classes`, and `tokenizer`, if it is texts and not pictures that it sorts
    """

    about: About
    model: Any


def about(folder: Path) -> About:
    """Read serve.json.

    Raises:
        ValueError: it is missing, or says something else than stage, kind and variant.
    """
    path = folder / ABOUT
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        stage, kind, variant = (str(found[name]) for name in ("stage", "kind", "variant"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: a folder is served once the stage optimise has written it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): write the folder again") from None
    if kind not in get_args(Kind):
        raise ValueError(f"{path}: kind {kind!r} is none of {', '.join(get_args(Kind))}")
    return About(stage, kind, variant)  # type: ignore[arg-type]  # one of them
