"""Tests the plan of an epoch: rows of processes, repetitions, and the last batch."""

import numpy as np
import pytest

from tools.training.task import Shard
from vision.data_plan import EpochPlan, rank_places


@pytest.mark.parametrize(("size", "batch_size"), [(1, 1), (1, 5), (2, 4), (3, 5), (4, 1), (5, 6)])
def test_rows_and_partners_stay_together(size, batch_size):
    places = [rank_places(Shard(rank, size, batch_size)) for rank in range(size)]
    assert sorted(np.concatenate(places)) == list(range(size * batch_size))
    for own in places:
        partners = own + own[::-1]
        if batch_size % 2:
            partners = np.delete(partners, batch_size // 2)
        assert set(partners) <= {size * batch_size - 1}


def rows_of(plan):
    rows = [plan.rows(step) for step in range(len(plan))]
    return [
        (int(index), int(repetition))
        for step in rows
        for index, repetition in zip(step.indices, step.repetitions, strict=True)
    ]


def test_repeated_augmentation():
    plan = EpochPlan(300, 3, seed=1, epoch=0, global_batch_size=10)
    assert len(plan) == 30
    rows = rows_of(plan)
    assert len(set(rows)) == len(rows) == 300
    images = [index for index, _ in rows]
    assert len(set(images)) == 100
    for index in set(images):
        assert sorted(r for i, r in rows if i == index) == [0, 1, 2]
    # The variants of an image follow each other and are on different processes of one step.
    assert images[::3] == images[1::3] == images[2::3]
    again = EpochPlan(300, 3, seed=1, epoch=0, global_batch_size=20, done=((10, 5), (20, 2)))
    assert rows_of(again)[:210] == rows[90:]
    other = {index for index, _ in rows_of(EpochPlan(300, 3, 1, 1, global_batch_size=10))}
    assert 10 < len(other & set(images)) < 60  # a third of a hundred, by chance


def test_an_epoch_smaller_than_a_batch():
    rows = rows_of(EpochPlan(3, 2, seed=1, epoch=0, global_batch_size=8))
    assert len(rows) == len(set(rows)) == 8
    assert len({index for index, _ in rows}) == 2
