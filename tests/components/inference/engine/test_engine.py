"""The engine against `generate`: whatever joins and leaves, with and without known prefixes and guesses."""

import asyncio
import gc
import random
import time
import weakref

import pytest
import torch

from components.decoders.config import SamplingConfig
from components.inference.engine.engine import Engine
from components.inference.engine.stream import Busy, Closed
from tests.components.inference.engine.fixtures import CONTEXT, GREEDY, VOCABULARY, built, prompts, reference

WAIT = 30.0  # seconds until a test gives up


@pytest.fixture(scope="module")
def decoder():
    return built()


@pytest.fixture
def engine(decoder):
    engine = Engine(decoder, None, slots=4)
    yield engine
    engine.close()


def until(holds) -> None:
    limit = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.001)


class Slow(torch.nn.Module):
    """Takes its time, so that what runs is still running."""

    def forward(self, tokens):
        time.sleep(0.005)
        return tokens


def slow(**settings) -> Engine:
    decoder = built()
    decoder.stack.dropout = Slow()
    return Engine(decoder, None, **({"slots": 1, "guesses": 0} | settings))


@pytest.mark.parametrize("prefix_bytes", [0, 1 << 20])
@pytest.mark.parametrize("guesses", [0, 6])
@pytest.mark.parametrize("end", [None, 7])
def test_greedy_tokens_are_generates_whatever_joins_and_leaves(decoder, prefix_bytes, guesses, end):
    schedule = random.Random(f"{prefix_bytes} {guesses} {end}")
    rows = prompts(12)
    rows += [rows[index] + rows[index + 1][:20] for index in range(4)]  # shared beginnings
    schedule.shuffle(rows)
    rows += [max(rows, key=len)] * 2  # a whole prompt again
    engine = Engine(decoder, end, slots=3, piece=16, prefix_bytes=prefix_bytes, guesses=guesses)
    asked = []
    for row in rows:
        tokens = schedule.randint(1, CONTEXT - len(row))
        stream = engine.submit(row, GREEDY, tokens)
        asked.append((row, tokens, stream, len(row) < 40 and schedule.random() < 0.3))
        time.sleep(schedule.choice([0, 0, 0.02]))
        if asked[-1][3]:
            stream.cancel()
    for row, tokens, stream, cancelled in asked:
        given, wanted = list(stream), reference(decoder, row, CONTEXT - len(row))[:tokens]
        wanted = wanted[: wanted.index(end)] if end in wanted else wanted
        if cancelled:
            assert given == wanted[: len(given)]
        else:
            assert given == wanted
            assert stream.reason == ("length" if len(wanted) == tokens else "stop")
    after = engine.statistics()
    engine.close()
    assert (after.cached_tokens > 0) == (prefix_bytes > 0)
    assert (after.confirmed > 0) == (guesses > 0)
    assert after.active == after.waiting == 0 and sum(after.ended.values()) == len(asked)


@pytest.mark.parametrize(
    "shape",
    [
        {"positions": "learned", "norm_place": "post"},
        {"positions": "alibi", "key_value_heads": 2},
        {"positions": "relative"},
        {"activation": "swiglu", "norm": "rms", "bias": "none", "key_value_heads": 1},
    ],
)
def test_greedy_tokens_are_generates_for_every_kind_of_decoder(shape):
    decoder = built(**shape)
    engine = Engine(decoder, None, slots=3, piece=16)
    streams = [(row, engine.submit(row, GREEDY, 30)) for row in prompts(6)]
    for row, stream in streams:
        assert list(stream) == reference(decoder, row, 30)
    engine.close()


@pytest.mark.parametrize("sampling", [SamplingConfig(), SamplingConfig(temperature=1.4, top_k=9, top_p=0.9)])
def test_sampled_tokens_depend_on_prompt_parameters_and_seed_alone(decoder, sampling):
    rows = prompts(8, seed=1)
    alone, crowd = Engine(decoder, None, slots=1, guesses=0, prefix_bytes=0), Engine(decoder, None, slots=4, piece=16)
    others = [crowd.submit(row, SamplingConfig(temperature=0.5), 20, seed=99) for row in rows]
    streams = [crowd.submit(row, sampling, 25, seed) for seed, row in enumerate(rows)]
    wanted = [list(alone.submit(row, sampling, 25, seed)) for seed, row in enumerate(rows)]
    assert [list(stream) for stream in streams] == wanted
    assert [list(stream) for stream in others] == [
        list(alone.submit(row, SamplingConfig(temperature=0.5), 20, seed=99)) for row in rows
    ]
    assert list(alone.submit(rows[0], sampling, 25, seed=77)) != wanted[0]
    alone.close()
    crowd.close()


def test_without_a_seed_each_request_has_its_own(engine):
    first, second = (list(engine.submit([1, 2, 3], SamplingConfig(temperature=3.0), 30)) for _ in range(2))
    assert first != second


def test_an_event_loop_reads_many_at_once(decoder, engine):
    async def read(row):
        return [token async for token in engine.submit(row, GREEDY, 20)]

    async def main():
        return await asyncio.gather(*map(read, prompts(10)))

    assert asyncio.run(main()) == [reference(decoder, row, 20) for row in prompts(10)]


def test_a_cancelled_request_frees_its_slot_for_the_next():
    engine = slow()
    first = engine.submit([1], GREEDY, 90)
    second, third = engine.submit([2], GREEDY, 2), engine.submit([3], GREEDY, 2)
    next(iter(first))
    third.cancel()  # waiting
    first.cancel()  # running
    assert len(list(second)) == 2
    assert len(list(first)) < 89 and list(third) == []
    assert (first.reason, second.reason, third.reason) == ("cancelled", "length", "cancelled")
    engine.close()


def test_a_prompt_that_is_being_read_can_be_cancelled():
    engine = slow(piece=1, prefix_bytes=0)
    stream = engine.submit([1] * 90, GREEDY, 5)
    until(lambda: engine.statistics().active)
    stream.cancel()
    assert list(stream) == []
    assert stream.reason == "cancelled"
    engine.close()


def test_a_long_prompt_does_not_hold_up_what_runs():
    engine = slow(slots=2, piece=1, prefix_bytes=0)
    running = engine.submit([1], GREEDY, 60)
    tokens = iter(running)
    next(tokens)
    long = engine.submit([2] * 80, GREEDY, 1)
    list(tokens)
    assert long.reason is None  # 80 pieces, one between two steps
    assert len(list(long)) == 1
    engine.close()


def test_a_deadline_ends_what_runs_and_what_waits():
    engine = slow()
    soon = time.monotonic() + 0.1
    running, waiting = (engine.submit([1], GREEDY, 90, deadline=soon) for _ in range(2))
    assert 0 < len(list(running)) < 90
    assert list(waiting) == []
    assert running.reason == waiting.reason == "deadline"
    engine.close()


def test_a_full_queue_is_busy_and_says_for_how_long():
    engine = slow(queue=2)
    running = engine.submit([1], GREEDY, 90)
    until(lambda: engine.statistics().active)
    waiting = [engine.submit([1], GREEDY, 1) for _ in range(2)]
    with pytest.raises(Busy, match="2 requests are waiting already") as refused:
        engine.submit([1], GREEDY, 1)
    assert refused.value.seconds > 0
    assert engine.statistics().waiting == 2
    running.cancel()
    assert [len(list(stream)) for stream in waiting] == [1, 1]
    assert len(list(engine.submit([1], GREEDY, 1))) == 1
    engine.close()


def test_close_ends_every_stream_with_an_error():
    engine = slow()
    streams = [engine.submit([1], GREEDY, 90) for _ in range(3)]
    next(iter(streams[0]))
    engine.close()
    for stream in streams:
        with pytest.raises(Closed, match="before the text was complete"):
            list(stream)
        assert stream.reason == "error"
    with pytest.raises(Closed, match="submit to another"):
        engine.submit([1], GREEDY, 1)
    engine.close()  # again: nothing


def test_close_with_patience_lets_them_end():
    engine = slow()
    streams = [engine.submit([1], GREEDY, 5) for _ in range(3)]
    engine.close(patience=WAIT)
    assert [len(list(stream)) for stream in streams] == [5, 5, 5]


def test_what_fails_in_a_step_fails_alone_and_the_engine_goes_on():
    decoder = built()
    engine = Engine(decoder, None, slots=2, guesses=0)
    passes = engine._decoder.stack.forward

    def failing(tokens, mask=None, cache=None, lengths=None):
        if tokens.shape[1] > 40:
            raise RuntimeError("no memory for so long a prompt")
        if tokens.shape[0] == 2:
            raise RuntimeError("no memory for two")
        return passes(tokens, mask, cache, lengths)

    engine._decoder.stack.forward = failing
    running = iter(engine.submit([1], GREEDY, 60))
    drawn = [next(running)]
    long = engine.submit([1] * 50, GREEDY, 5)
    with pytest.raises(RuntimeError, match="so long a prompt"):
        list(long)
    assert drawn + list(running) == reference(decoder, [1], 60)
    both = [engine.submit([1], GREEDY, 90), engine.submit([2], GREEDY, 90)]
    for stream in both:
        with pytest.raises(RuntimeError, match="for two"):
            list(stream)
    assert list(engine.submit([3], GREEDY, 20)) == reference(decoder, [3], 20)
    engine.close()


def test_numbers_that_are_not_finite_fail_their_request_alone():
    decoder, rows = built(tied=False), prompts(4, longest=6)
    wanted = [reference(decoder, row, 10) for row in rows]
    texts = [row + tokens for row, tokens in zip(rows, wanted, strict=True)]
    # a token that one row alone draws, in mid-text, and none was asked with
    which, place = next(
        (row, place)
        for row, tokens in enumerate(wanted)
        for place, token in enumerate(tokens[:-1])
        if sum(token in text for text in texts) == 1 and token not in rows[row] + tokens[:place]
    )
    spoilt = wanted[which][place]
    with torch.no_grad():
        decoder.embedding.weight[spoilt] = torch.nan
    engine = Engine(decoder, None, slots=2, guesses=0)
    for _ in range(2):  # slots are used again
        streams = [engine.submit(row, GREEDY, 10) for row in rows]
        asked = engine.submit([1, spoilt], GREEDY, 30)
        for row, stream in enumerate(streams):
            drawn = []
            if row == which:
                tokens = iter(stream)
                drawn += [next(tokens) for _ in range(place + 1)]
                with pytest.raises(ArithmeticError, match="not finite"):
                    next(tokens)
                assert drawn == wanted[row][: place + 1]
            else:
                assert list(stream) == wanted[row]
        with pytest.raises(ArithmeticError, match="not finite"):
            list(asked)
    engine.close()


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [
        ([], 5, "0 prompt and 5 new tokens: both need at least one"),
        ([1], 0, "1 prompt and 0 new tokens: both need at least one"),
        ([1, VOCABULARY], 5, "token 40 of the prompt is not one of the vocabulary's 40"),
        ([1, -1], 5, "token -1"),
        ([1] * 90, 7, "90 prompt and 7 new tokens exceed the context of 96"),
    ],
)
def test_what_cannot_be_done_is_refused(engine, prompt, tokens, message):
    with pytest.raises(ValueError, match=message):
        engine.submit(prompt, GREEDY, tokens)


def test_engines_of_other_weights_share_no_prefixes():
    row = prompts(1, seed=4)[0] * 2
    for seed in range(2):
        decoder = built(seed)
        engine = Engine(decoder, None, slots=1)
        assert list(engine.submit(row, GREEDY, 20)) == reference(decoder, row, 20)
        again = engine.submit(row, GREEDY, 20)
        assert list(again) == reference(decoder, row, 20)
        assert again.cached_tokens >= 16
        engine.close()


def test_many_requests_leave_nothing_behind(decoder):
    engine = Engine(decoder, None, slots=4, queue=400, prefix_bytes=1 << 16)

    def serve(count, seed):
        streams = [engine.submit(row, GREEDY, 8) for row in prompts(count, seed, longest=40)]
        for stream in streams:
            list(stream)
        return [weakref.ref(stream) for stream in streams]

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())

    serve(60, seed=2)
    before = tensors()
    streams = serve(120, seed=3)
    until(lambda: engine.statistics().active == 0)
    assert tensors() <= before + 8  # those of the step in flight
    assert not any(stream() for stream in streams)
    assert engine.statistics().prefix_bytes <= 1 << 16
    engine.close()
