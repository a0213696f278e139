"""The text of an answer, against the tokenizer's own decoding and against stop strings found in the whole text."""

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.models import TEXTS
from components.data.tokenizer import EOS, SPECIAL, train
from components.inference.engine.stream import Stream
from components.inference.server import chat
from components.inference.server.completion import Completion, Spelling, Stops

TOKENIZER = train(TEXTS, 300)
SPELLING = Spelling(TOKENIZER, len(SPECIAL))


def completed(tokens: list[int], stops: tuple[str, ...] = (), reason: str = "stop") -> tuple[Completion, list[str]]:
    stream = Stream(3)
    stream.put(tokens)
    stream.end(reason)  # type: ignore[arg-type]
    completion = Completion(stream, SPELLING, stops)

    async def read() -> list[str]:
        return [piece async for piece in completion]

    return completion, asyncio.run(read())


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(len(SPECIAL), TOKENIZER.get_vocab_size() - 1), max_size=30))
def test_pieces_join_to_what_the_tokenizer_decodes(tokens: list[int]) -> None:
    """Bytes drawn at random are mostly no UTF-8: these become the same replacement characters."""
    completion, pieces = completed(tokens)
    assert "".join(pieces) == TOKENIZER.decode(tokens)
    assert completion.tokens == len(tokens) and completion.finish == "stop"


def test_no_piece_holds_half_a_character() -> None:
    text = "赤い🎈 ñ end"
    tokens = TOKENIZER.encode(text, add_special_tokens=False).ids
    _, pieces = completed(tokens)
    assert len(tokens) > len(text) and "".join(pieces) == text and "\ufffd" not in "".join(pieces)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.text("ab", max_size=3), max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_string(pushed: list[str], words: list[str]) -> None:
    """Wherever pieces are cut. The oracle: the earliest prefix of the text that ends with one of them."""
    text, stops = "".join(pushed), Stops(words)
    shown = "".join(map(stops.push, pushed)) + stops.rest()
    met = [(end, word) for end in range(len(text) + 1) for word in words if text[:end].endswith(word)]
    if not met:
        assert shown == text and not stops.met
    else:
        first = min(end for end, _ in met)
        assert stops.met and text.startswith(shown)
        assert any(text.startswith(word, len(shown)) for word in words)
        assert len(shown) <= first
        assert not any(word in shown for word in words)


def test_a_stop_string_frees_the_engine_and_is_no_part_of_the_text() -> None:
    tokens = TOKENIZER.encode("red circle at the left", add_special_tokens=False).ids
    completion, pieces = completed(tokens, (" at",), "length")
    assert "".join(pieces) == "red circle"
    assert completion.finish == "stop" and completion.stream.cancelled


@pytest.mark.parametrize(("reason", "finish"), [("stop", "stop"), ("length", "length")])
def test_the_reason_is_told_in_openais_words(reason: str, finish: str) -> None:
    completion, _ = completed(TOKENIZER.encode("red").ids, reason=reason)
    assert completion.finish == finish


def test_a_deadline_in_the_middle_is_an_error() -> None:
    with pytest.raises(TimeoutError):
        completed(TOKENIZER.encode("red").ids, reason="deadline")


def test_pieces_come_while_the_engine_still_writes() -> None:
    stream = Stream(1)
    completion = Completion(stream, SPELLING, [])

    async def read() -> list[str]:
        found = []
        threading.Timer(0.05, lambda: stream.put(TOKENIZER.encode("red").ids)).start()
        async for piece in completion:
            found.append(piece)
            stream.end("length")
        return found

    assert asyncio.run(read())[0] == TOKENIZER.decode(TOKENIZER.encode("red").ids[:1])


def test_a_special_token_written_out_is_text() -> None:
    tokenizer = train(TEXTS, 300)
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode("<eos>", add_special_tokens=False).ids
    assert EOS not in ids and tokenizer.decode(ids) == "<eos>"


def test_the_template_of_a_chat() -> None:
    talk = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]
    assert chat.prompt(talk) == "System: Be brief.\nUser: Hi\nAssistant: Hello\nUser: Bye\nAssistant:"
