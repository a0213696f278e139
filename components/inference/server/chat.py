"""The fixed template that makes a chat of a decoder's plain text: a line a message, each begun by who speaks."""

from collections.abc import Iterable

SPEAKERS = {"system": "System", "developer": "System", "user": "User", "assistant": "Assistant"}
STOP = f"\n{SPEAKERS['user']}:"  # where the model would speak for the user


def prompt(messages: Iterable[tuple[str, str]]) -> str:
    """(role, text) pairs as the text before the assistant's answer."""
    lines = [f"{SPEAKERS[role]}: {text}" for role, text in messages]
    return "\n".join([*lines, f"{SPEAKERS['assistant']}:"])
