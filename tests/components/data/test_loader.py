from itertools import chain, islice

import numpy as np
import pytest
import torch

from components.data.loader import Loader, Prepared


def example(record: int, rng: np.random.Generator | None) -> tuple[int, int]:
    return record, -1 if rng is None else int(rng.integers(1000))


def make(workers: int, count: int = 23, seed: int = 0) -> Loader:
    return Loader(Prepared(list(range(count)), example), torch.tensor, batch_size=4, seed=seed, workers=workers)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("start", [0, 5])
def test_workers_change_neither_order_nor_augmentation(workers: int, start: int) -> None:
    expected = list(islice(make(0)(0), start + 12))[start:]  # two epochs of 23
    batches = make(workers)(start)
    got = list(islice(batches, 12))
    batches.close()  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_batches_follow_seed_and_epoch() -> None:
    first, second = torch.cat(list(islice(make(0)(0), 6)))[:23], torch.cat(list(islice(make(0)(0), 12)))[23:46]
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist()) == list(range(23))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat(list(islice(make(0, seed=1)(0), 6)))[:23])


def test_a_record_varies_from_epoch_to_epoch() -> None:
    drawn = torch.cat(list(islice(make(0, count=4)(0), 50)))
    assert len(set(drawn[drawn[:, 0] == 0][:, 1].tolist())) > 40


def test_in_order_is_one_pass_as_it_is() -> None:
    batches = list(make(0).in_order())
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 3]
    assert torch.cat(batches).tolist() == [[i, -1] for i in range(23)]


@pytest.mark.parametrize("count", [640, 333])  # the latter: epochs end within a step
def test_accumulated_batches_hold_the_examples_of_the_large_one(count: int) -> None:
    """And each as it is drawn there; in three epochs, of lengths that are sorted."""
    lengths = np.random.default_rng(0).integers(1, 500, count)

    def drawn(batch_size: int, accumulation: int, steps: int) -> list[list[tuple[int, int]]]:
        examples = Prepared(list(range(count)), example)
        loader = Loader(examples, list, batch_size, seed=0, lengths=lengths, accumulation=accumulation)
        parts = list(islice(loader(0), steps * accumulation))
        return [list(chain(*parts[step : step + accumulation])) for step in range(0, len(parts), accumulation)]

    assert drawn(8, 4, 3 * count // 32) == drawn(32, 1, 3 * count // 32)
    assert drawn(8, 1, 40) != drawn(32, 1, 40)


def test_the_global_generator_is_left_alone() -> None:
    """Dropout draws from it: a run with workers must give the same bits."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    batches = make(2)(0)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert torch.equal(torch.get_rng_state(), before)


def test_an_error_in_a_worker_comes_out() -> None:
    def broken(_record: int, _rng: np.random.Generator | None) -> int:
        raise ZeroDivisionError("in a worker")

    batches = Loader(Prepared([1, 2], broken), list, batch_size=2, seed=0, workers=1)(0)
    with pytest.raises(ZeroDivisionError, match="in a worker"):
        next(batches)


def test_the_names_of_a_batch_are_those_of_its_examples() -> None:
    records = [{"key": f"clip_{index}"} for index in range(10)] + [{"text": "no key"}]
    loader = Loader(Prepared(records, lambda record, _rng: record.get("key", "10")), list, batch_size=4, seed=0)
    for number, batch in enumerate(islice(loader(0), 6)):  # more than two epochs of 11
        assert loader.names(number) == batch
    assert make(0).names(2) == [str(record) for record, _ in next(make(0)(2)).tolist()]  # records without keys
