"""The order of training samples is a function of seed and step alone."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np
import pytest

from model.data.dataset import Dataset, Order
from model.data.shards import Entry

BUCKETS = ("720x416", "544x544", "416x720")


class Listed:
    """As many entries as asked, of several buckets."""

    def __init__(self, *counts: int) -> None:
        names = [bucket for bucket, count in zip(BUCKETS, counts, strict=False) for _ in range(count)]
        self.entries = [Entry(f"clip-{n}", n // 16, 5, bucket, "s", "p", "d") for n, bucket in enumerate(names)]

    def __len__(self) -> int:
        return len(self.entries)


def order(*counts: int, batch_size: int = 4, seed: int = 0) -> Order:
    return Order(cast(Dataset, Listed(*counts)), batch_size, seed)


def batch(of: Order, step: int) -> list[int]:
    return [of.at(step, place) for place in range(of.batch_size)]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_any_number_of_ranks_takes_the_same_batches(world: int) -> None:
    taken = order(10, 7, 5)
    for step in range(12):
        by_rank = [taken.for_rank(step, rank, world) for rank in range(world)]
        assert np.array(by_rank).T.reshape(-1).tolist() == batch(taken, step)


def test_a_run_goes_on_in_the_middle_of_an_epoch_with_nothing_but_its_step() -> None:
    whole = [batch(order(10, 7, 5), step) for step in range(14)]
    resumed = order(10, 7, 5)
    assert [batch(resumed, step) for step in range(8, 14)] == whole[8:]
    assert batch(resumed, 3) == whole[3]


def test_an_epoch_takes_no_clip_twice_and_all_of_them_over_time() -> None:
    taken = order(11, 6, 5)
    assert taken.steps_per_epoch == 5
    epochs = [[index for step in range(5) for index in batch(taken, 5 * e + step)] for e in range(8)]
    assert all(len(set(epoch)) == 20 for epoch in epochs)
    assert {index for epoch in epochs for index in epoch} == set(range(22))
    assert len({tuple(epoch) for epoch in epochs}) == 8


def test_batches_are_of_one_bucket_where_there_are_clips_enough() -> None:
    taken = order(11, 6, 5)
    clips = Listed(11, 6, 5)
    for epoch in range(6):
        batches = [batch(taken, 5 * epoch + step) for step in range(5)]
        pure = [len({clips.entries[index].bucket for index in each}) == 1 for each in batches]
        assert Counter(pure)[True] >= 4


def test_batches_of_a_bucket_are_not_in_a_row() -> None:
    taken = order(40, 40)
    first = [Listed(40, 40).entries[batch(taken, step)[0]].bucket for step in range(20)]
    assert first != sorted(first) and first != sorted(first, reverse=True)


def test_another_seed_is_another_order() -> None:
    assert batch(order(40), 0) != batch(order(40, seed=1), 0)


def test_fewer_clips_than_a_batch_fill_it_by_repeating() -> None:
    taken = order(2, 1, batch_size=8)
    assert set(batch(taken, 0)) == {0, 1, 2}
    assert batch(taken, 0) != batch(taken, 1)


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"world": 3}, {"place": 4}])
def test_a_batch_that_cannot_be_is_refused_with_the_numbers(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"batch(es)? of (0|4)"):
        taken = order(8, batch_size=wrong.get("batch_size", 4))
        taken.for_rank(0, 0, wrong.get("world", 1))
        taken.at(0, wrong.get("place", 0))
