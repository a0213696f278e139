"""Micro-batching over `work` whose passes the test holds and counts."""

import asyncio
import threading
import time
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.inference.batching import BatchConfig, Batcher, Overloaded


class Held:
    """Doubles numbers; each pass waits until it is let go. `passes`: the items of each."""

    def __init__(self) -> None:
        self.passes: list[list[int]] = []
        self.going = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)

    def __call__(self, items: list[int]) -> list[int]:
        self.passes.append(items)
        self.begun.release()
        assert self.going.acquire(timeout=20)
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


def soon() -> float:
    return time.monotonic() + 20


async def begun(held: Held) -> None:
    assert await asyncio.to_thread(held.begun.acquire, timeout=20)


def test_a_lone_caller_never_waits_for_others() -> None:
    """Were it to wait, the test would end by its deadlines: the delay is an hour."""
    batcher = Batcher(lambda items: items, BatchConfig(delay=3600.0))

    async def ask() -> list[list[int]]:
        return [await batcher([i], soon()) for i in range(3)]

    assert asyncio.run(ask()) == [[0], [1], [2]]
    batcher.close()


def test_what_comes_during_a_pass_shares_the_next_and_waits_for_as_many_again() -> None:
    held = Held()
    batcher = Batcher(held, BatchConfig(most=4, delay=0.5))

    async def ask() -> list[list[int]]:
        first = asyncio.ensure_future(batcher([0], soon()))
        await begun(held)
        others = [asyncio.ensure_future(batcher([i], soon())) for i in range(1, 7)]
        await asyncio.sleep(0)
        for _ in range(3):
            held.going.release()
        return await asyncio.gather(first, *others)

    assert asyncio.run(ask()) == [[2 * i] for i in range(7)]
    assert held.passes == [[0], [1, 2, 3, 4], [5, 6]]
    batcher.close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=5), min_size=1, max_size=20), st.integers(1, 8))
def test_each_caller_gets_its_own_results_of_one_pass(calls: list[list[int]], most: int) -> None:
    passes: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        passes.append(items)
        return [3 * item for item in items]

    batcher = Batcher(work, BatchConfig(most=most, waiting=1000))

    async def ask() -> list[list[int]]:
        return await asyncio.gather(*(batcher(items, soon()) for items in calls))

    assert asyncio.run(ask()) == [[3 * item for item in items] for items in calls]
    batcher.close()
    assert [*chain(*passes)] == [*chain(*calls)]  # in the order in which they came
    assert all(len(items) <= most or items in calls for items in passes)


def test_a_full_queue_refuses_and_a_late_or_cancelled_call_is_not_computed() -> None:
    held = Held()
    batcher = Batcher(held, BatchConfig(waiting=3))

    async def ask() -> None:
        running = asyncio.ensure_future(batcher([0], soon()))
        await begun(held)
        late = asyncio.ensure_future(batcher([1], time.monotonic() + 0.05))
        gone = asyncio.ensure_future(batcher([2], soon()))
        stays = asyncio.ensure_future(batcher([3], soon()))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 items are waiting"):
            await batcher([4], soon())
        gone.cancel()
        with pytest.raises(TimeoutError):
            await late
        held.going.release()
        held.going.release()
        assert await running == [0] and await stays == [6]

    asyncio.run(ask())
    assert held.passes == [[0], [3]]
    batcher.close()


def test_an_item_that_fails_takes_no_other_call_with_it() -> None:
    held = Held()
    batcher = Batcher(held, BatchConfig())

    async def ask() -> list[object]:
        first = asyncio.ensure_future(batcher([0], soon()))
        await begun(held)
        others = [asyncio.ensure_future(batcher([i], soon())) for i in (5, -1, 7)]
        await asyncio.sleep(0)
        for _ in range(5):
            held.going.release()
        return await asyncio.gather(first, *others, return_exceptions=True)

    found = asyncio.run(ask())
    assert [found[0], found[1], found[3]] == [[0], [10], [14]]
    assert isinstance(found[2], ValueError)
    batcher.close()


def test_closing_computes_what_waits_and_ends_the_thread() -> None:
    held = Held()
    batcher = Batcher(held, BatchConfig())

    async def ask() -> list[list[int]]:
        calls = [asyncio.ensure_future(batcher([i], soon())) for i in range(3)]
        await begun(held)
        closing = asyncio.ensure_future(asyncio.to_thread(batcher.close))
        for _ in range(3):
            held.going.release()
        await closing
        with pytest.raises(RuntimeError, match="closed"):
            await batcher([9], soon())
        return await asyncio.gather(*calls)

    assert asyncio.run(ask()) == [[0], [2], [4]]
    assert not batcher._thread.is_alive()


def test_work_that_gives_too_few_results_fails_rather_than_mixing_them() -> None:
    batcher = Batcher(lambda items: items[:-1], BatchConfig())

    async def ask() -> None:
        with pytest.raises(RuntimeError, match="2 items gave 1 results"):
            await batcher([1, 2], soon())

    asyncio.run(ask())
    batcher.close()
