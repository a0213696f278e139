"""Streams: order across threads and event loops, endings, and errors after the tokens before them."""

import asyncio
import threading

import pytest

from components.inference.engine.stream import Stream


def feed(stream: Stream, error: Exception | None = None) -> threading.Thread:
    def work() -> None:
        for start in range(0, 300, 3):
            stream.put([start, start + 1, start + 2])
        stream.end("error" if error else "length", error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_another_thread_reads_all_tokens_in_order():
    stream = Stream(1)
    thread = feed(stream)
    assert list(stream) == list(range(300))
    assert stream.reason == "length"
    thread.join()


def test_an_event_loop_reads_all_tokens_in_order_and_is_not_blocked():
    async def read() -> tuple[list[int], int]:
        stream, turns = Stream(1), 0
        ended = asyncio.Event()

        async def others() -> None:
            nonlocal turns
            while not ended.is_set():
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(others())
        await asyncio.sleep(0.01)
        thread = feed(stream)
        tokens = [token async for token in stream]
        ended.set()
        await other
        thread.join()
        return tokens, turns

    tokens, turns = asyncio.run(read())
    assert tokens == list(range(300))
    assert turns > 1


def test_an_error_comes_after_the_tokens_before_it():
    stream, seen = Stream(1), []
    thread = feed(stream, RuntimeError("lost"))
    thread.join()
    with pytest.raises(RuntimeError, match="lost"):
        seen.extend(iter(stream))
    # what was read before the error stands; a list that never came to be does not
    stream = Stream(1)
    stream.put([1, 2])
    stream.end("error", RuntimeError("lost"))
    tokens = iter(stream)
    assert [next(tokens), next(tokens)] == [1, 2]
    with pytest.raises(RuntimeError, match="lost"):
        next(tokens)


def test_a_closed_event_loop_counts_as_a_client_that_went():
    stream = Stream(1)

    async def wait_briefly() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(aiter(stream)), 0.01)

    asyncio.run(wait_briefly())
    stream.put([1])
    assert stream.cancelled
