"""People's thumbs as preference data: JSON lines that ingest takes, for the later phase that learns from them.

Two files. pairs.jsonl: {prompt, chosen, rejected}, where the same prompt got an answer with a thumb up and one with a
thumb down; thumbs.jsonl: {prompt, answer, thumb} for every judged answer. As sources:

    pairs: {layout: jsonl, path: DIR/pairs.jsonl, fields: {text: prompt, chosen: chosen, rejected: rejected}}
    thumbs: {layout: jsonl, path: DIR/thumbs.jsonl, fields: {text: prompt, answer: answer, thumb: thumb}}
"""

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from components.durable import write_whole
from components.inference.traffic import Traffic


def export(traffic: Traffic, name: str, folder: Path) -> tuple[int, int]:
    """Write both files; how many pairs and thumbs. Answers without a text (vectors, pictures) are left out."""
    judged = [row for each in traffic.thumbs(name) if (row := _row(each))]
    folder.mkdir(parents=True, exist_ok=True)
    found = {"pairs": pairs(judged), "thumbs": judged}
    for file, rows in found.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_whole(folder / f"{file}.jsonl", lines.encode())
    return len(found["pairs"]), len(judged)


def pairs(judged: Iterable[dict[str, Any]]) -> list[dict[str, str]]:
    """Each liked answer beside each disliked one to the same prompt, in the order of the thumbs, without repeats."""
    answers: dict[str, dict[int, dict[str, None]]] = defaultdict(lambda: {1: {}, -1: {}})
    for row in judged:
        answers[row["prompt"]][row["thumb"]][row["answer"]] = None
    return [
        {"prompt": prompt, "chosen": chosen, "rejected": rejected}
        for prompt, both in answers.items()
        for chosen in both[1]
        for rejected in both[-1]
        if chosen != rejected
    ]


def _row(judged: dict[str, Any]) -> dict[str, Any] | None:
    """A request with its thumb as one line; None where it has no prompt or no answer in words."""
    asked, answered = judged["input"] or {}, judged["output"] or {}
    prompt = asked.get("prompt") or asked.get("text") or "\n".join(asked.get("input") or ())
    if messages := asked.get("messages"):
        prompt = "\n".join(f"{role}: {content}" for role, content in messages)
    answer = answered.get("text") or "\n".join(answered.get("labels") or ())
    return {"prompt": prompt, "answer": answer, "thumb": judged["thumb"]} if prompt and answer else None
