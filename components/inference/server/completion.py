"""The text of an answer, piece by piece: bytes to characters, stop strings, and why it ended.

A token of a byte-level vocabulary is some bytes, which need not end where a character does: bytes are decoded
incrementally, so that no piece holds half a character. Text that may be the beginning of a stop string is held back
until it is known not to be.
"""

import codecs
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Literal

from components.inference.engine.stream import Stream

if TYPE_CHECKING:
    import tokenizers

Finish = Literal["stop", "length"]


def byte_table() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (Radford et al. 2019, encoder.py): a bijection of 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


class Spelling:
    """Tokens of a tokenizer as bytes; special ones are none."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer", special: int) -> None:
        """special: the first ids, which stand for no text."""
        table = byte_table()
        size = tokenizer.get_vocab_size()
        words = [tokenizer.id_to_token(token) or "" for token in range(special, size)]
        self._bytes = [b""] * special + [bytes(table[letter] for letter in word) for word in words]

    def __getitem__(self, token: int) -> bytes:
        return self._bytes[token]


class Stops:
    """Lets text through up to the first stop string, without it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.met = False
        self._held = ""

    def push(self, text: str) -> str:
        """What may be shown now; nothing more once a stop string was met."""
        if self.met:
            return ""
        self._held += text
        places = [place for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.met = True
            return self._held[: min(places)]
        keep = max((_overlap(self._held, stop) for stop in self.stops), default=0)
        shown, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return shown

    def rest(self) -> str:
        """What was held back and turned out to be text."""
        return "" if self.met else self._held


def _overlap(text: str, stop: str) -> int:
    """The longest end of `text` that `stop` begins with."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


class Completion:
    """Iterate it once. `finish` says why it ended, `tokens` how many the model wrote; both grow with the pieces."""

    def __init__(self, stream: Stream, spelling: Spelling, stops: Sequence[str]) -> None:
        self.stream, self.spelling = stream, spelling
        self.stops = Stops(stops)
        self.prompt_tokens = stream.prompt_tokens
        self.tokens = 0
        self.finish: Finish | None = None

    def __aiter__(self) -> AsyncIterator[str]:
        return self.pieces()

    async def pieces(self) -> AsyncIterator[str]:
        """Non-empty pieces of text.

        Raises:
            TimeoutError: the request's deadline passed.
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            async for token in self.stream:
                self.tokens += 1
                if text := self.stops.push(decoder.decode(self.spelling[token])):
                    yield text
                if self.stops.met:
                    self.finish = "stop"
                    return
            if self.stream.reason == "deadline":
                raise TimeoutError
            text = self.stops.push(decoder.decode(b"", final=True)) + self.stops.rest()
            self.finish = "length" if self.stream.reason == "length" and not self.stops.met else "stop"
            if text:
                yield text
        finally:
            self.stream.cancel()

    def cancel(self) -> None:
        """Free the place in the engine; also where nobody iterates."""
        self.stream.cancel()
