"""Plans of epochs: every utterance once, of like lengths, the same after any interruption."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.errors import refused
from tools.speech.bucketing import Segment, bucket_boundaries, epoch_plan, rank_rows

REPEATABLE = settings(deadline=None, derandomize=True)
LENGTHS = st.lists(st.integers(1, 60), max_size=70).map(lambda values: np.array(values, np.int64))
BUDGETS = st.none() | st.integers(60, 400)
SEGMENTS = st.lists(
    st.builds(
        Segment, st.integers(1, 9), st.integers(0, 4), BUDGETS, st.none() | st.integers(1, 5)
    ),
    max_size=4,
)


def librispeech_like(num_utterances: int) -> np.ndarray:
    """Lengths with LibriSpeech's shape: most near 15 s, a long tail of short ones."""
    generator = np.random.default_rng(7)
    seconds = np.where(
        generator.random(num_utterances) < 0.65,
        generator.normal(14.9, 0.9, num_utterances),
        generator.uniform(1.3, 15.0, num_utterances),
    )
    return (np.clip(seconds, 1.3, 24.5) * 16000).astype(np.int64)


def flat(plan: list[np.ndarray]) -> list[int]:
    return [int(index) for batch in plan for index in batch]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return [batch.tolist() for batch in one] == [batch.tolist() for batch in other]


def cost(batch: np.ndarray, num_samples: np.ndarray) -> int:
    return len(batch) * int(num_samples[batch].max())


@REPEATABLE
@given(LENGTHS, st.integers(0, 9), st.integers(1, 9), st.integers(1, 6), BUDGETS, st.booleans())
def test_every_utterance_once_within_size_and_budget(
    num_samples, epoch, batch_size, num_buckets, budget, shuffle
):
    plan = epoch_plan(
        num_samples,
        seed=1,
        epoch=epoch,
        global_batch_size=batch_size,
        num_buckets=num_buckets,
        max_batch_samples=budget,
        shuffle=shuffle,
    )
    assert sorted(flat(plan)) == list(range(len(num_samples)))
    assert all(0 < len(batch) <= batch_size for batch in plan)
    assert all(batch.dtype == np.int64 for batch in plan)
    if budget:
        assert all(cost(batch, num_samples) <= budget for batch in plan)
    else:
        assert len(plan) == -(-len(num_samples) // batch_size)
        assert sum(len(batch) < batch_size for batch in plan) <= 1
    if not shuffle:
        assert flat(plan) == list(range(len(num_samples)))


@REPEATABLE
@given(LENGTHS, SEGMENTS, st.integers(1, 9), st.integers(1, 5), BUDGETS, st.booleans())
def test_resuming_with_other_settings_loses_and_repeats_nothing(
    num_samples, segments, batch_size, num_buckets, budget, shuffle
):
    def plan(segment: Segment, done: list[Segment]) -> list[np.ndarray]:
        buckets = num_buckets if segment.num_buckets is None else segment.num_buckets
        return epoch_plan(
            num_samples,
            seed=3,
            epoch=2,
            global_batch_size=segment.global_batch_size,
            num_buckets=buckets,
            max_batch_samples=segment.max_batch_samples,
            shuffle=shuffle,
            done=done,
        )

    run, done = [], []
    for segment in segments:
        # What a run records is complete: 0 says that it had no budget.
        batches = plan(segment, done)[: segment.num_steps]
        run += flat(batches)
        done.append(
            Segment(
                segment.global_batch_size,
                len(batches),
                segment.max_batch_samples or 0,
                num_buckets if segment.num_buckets is None else segment.num_buckets,
            )
        )
    run += flat(plan(Segment(batch_size, 0, budget), done))
    assert sorted(run) == list(range(len(num_samples)))


@REPEATABLE
@given(LENGTHS, st.integers(1, 9), st.integers(0, 3), st.integers(0, 3), BUDGETS)
def test_resuming_with_the_same_settings_goes_on_as_if_never_stopped(
    num_samples, batch_size, first, second, budget
):
    arguments = {
        "seed": 0,
        "epoch": 5,
        "global_batch_size": batch_size,
        "num_buckets": 3,
        "max_batch_samples": budget,
    }
    whole = epoch_plan(num_samples, **arguments)
    first = min(first, len(whole))
    second = min(second, len(whole) - first)
    stops = [Segment(batch_size, first), Segment(batch_size + 1, 0), Segment(batch_size, second)]
    assert same(epoch_plan(num_samples, **arguments, done=stops), whole[first + second :])


def test_resuming_after_two_settings_goes_on_with_the_second():
    num_samples = librispeech_like(500)
    arguments = {"seed": 0, "epoch": 0, "global_batch_size": 6, "num_buckets": 4}
    switched = epoch_plan(num_samples, **arguments, done=[Segment(8, 10)])
    later = epoch_plan(num_samples, **arguments, done=[Segment(8, 10), Segment(6, 7)])
    assert same(later, switched[7:])


@REPEATABLE
@given(LENGTHS, st.integers(1, 4), st.integers(1, 4))
def test_ranks_are_disjoint_complete_and_equally_long(num_samples, size, rows_per_rank):
    plan = epoch_plan(
        num_samples, seed=0, epoch=0, global_batch_size=size * rows_per_rank, num_buckets=3
    )
    for batch in plan:
        ranks = [
            rank_rows(batch, rank=rank, size=size, rows_per_rank=rows_per_rank)
            for rank in range(size)
        ]
        assert all(rows.shape == (rows_per_rank,) and rows.dtype == np.int64 for rows in ranks)
        own = [int(index) for rows in ranks for index in rows if index >= 0]
        assert sorted(own) == sorted(batch.tolist())
        for rows in ranks:
            assert np.all(np.diff((rows < 0).astype(int)) >= 0)  # masked rows come last
        num_real = [int(np.sum(rows >= 0)) for rows in ranks]
        assert max(num_real) - min(num_real) <= 1


def test_rank_rows():
    batch = np.array([5, 3, 8, 1, 9])
    rows = [rank_rows(batch, rank=rank, size=2, rows_per_rank=4).tolist() for rank in range(2)]
    assert rows == [[5, 8, 9, -1], [3, 1, -1, -1]]
    with pytest.raises(ValueError, match="5"):
        rank_rows(batch, rank=0, size=2, rows_per_rank=2)
    with pytest.raises(ValueError, match="Rank 2 of 2"):
        rank_rows(batch, rank=2, size=2, rows_per_rank=4)


def test_plans_depend_on_seed_and_epoch_alone():
    num_samples = librispeech_like(300)

    def plan(seed: int, epoch: int) -> list[np.ndarray]:
        np.random.seed(epoch)  # the global generator must not matter
        return epoch_plan(num_samples, seed=seed, epoch=epoch, global_batch_size=8, num_buckets=4)

    assert same(plan(1, 2), plan(1, 2))
    first, later, other = plan(1, 2), plan(1, 3), plan(2, 2)
    assert not same(first, later) and not same(first, other) and not same(later, other)

    def as_sets(batches: list[np.ndarray]) -> set[frozenset[int]]:
        return {frozenset(batch.tolist()) for batch in batches}

    # Not only the order of the batches: their members are drawn anew.
    assert len(as_sets(first) & as_sets(later)) <= 2
    # (1, 2) and (2, 1) are no mirror images.
    assert not same(plan(1, 2), plan(2, 1))


def test_batches_of_a_bucket_are_spread_over_the_epoch():
    num_samples = librispeech_like(4000)
    plan = epoch_plan(num_samples, seed=0, epoch=0, global_batch_size=8, num_buckets=8)
    longest = np.array([num_samples[batch].max() for batch in plan])
    correlation = np.corrcoef(longest, np.arange(len(longest)))[0, 1]
    assert abs(correlation) < 0.15
    short = longest < np.median(longest)
    assert 0.35 < short[: len(short) // 2].mean() < 0.65


def test_left_overs_stay_with_their_neighbours():
    # Three utterances of each of four lengths in batches of four: no bucket fills one alone.
    num_samples = np.repeat([10, 20, 30, 40], 3)
    plan = epoch_plan(num_samples, seed=0, epoch=0, global_batch_size=4, num_buckets=4)
    lengths = sorted(sorted(num_samples[batch].tolist()) for batch in plan)
    assert lengths == [[10, 10, 10, 20], [20, 20, 30, 30], [30, 40, 40, 40]]


@pytest.mark.parametrize("budget_seconds", [None, 400])
def test_buckets_save_padding(budget_seconds):
    num_samples = librispeech_like(20_000)

    def waste(num_buckets: int) -> float:
        plan = epoch_plan(
            num_samples,
            seed=0,
            epoch=0,
            global_batch_size=32,
            num_buckets=num_buckets,
            max_batch_samples=budget_seconds and budget_seconds * 16000,
        )
        return 1 - num_samples.sum() / sum(cost(batch, num_samples) for batch in plan)

    without, with_eight, with_thirty = waste(1), waste(8), waste(30)
    assert without > 0.2
    assert with_eight < without / 3
    assert with_thirty < without / 8


@pytest.mark.parametrize("budget_seconds", [None, 250])
def test_all_of_librispeech_is_planned(budget_seconds):
    num_samples = librispeech_like(281_241)
    budget = budget_seconds and budget_seconds * 16000
    plan = epoch_plan(
        num_samples,
        seed=0,
        epoch=0,
        global_batch_size=32,
        num_buckets=16,
        max_batch_samples=budget,
    )
    assert (np.bincount(np.concatenate(plan)) == 1).all()
    if budget is None:
        assert len(plan) == -(-281_241 // 32)
    else:
        costs = [cost(batch, num_samples) for batch in plan]
        assert max(costs) <= budget < 1.1 * np.mean(costs) + 25 * 16000


def test_an_utterance_beyond_the_budget_is_the_users_to_mend():
    with refused("data.max_batch_seconds of at least the longest utterance"):
        epoch_plan(
            np.array([10, 30]),
            seed=0,
            epoch=0,
            global_batch_size=2,
            num_buckets=1,
            max_batch_samples=20,
        )


def test_more_steps_than_the_epoch_has():
    with refused(match=r"at most 2 steps.*3 steps already run"):
        epoch_plan(
            np.array([10, 30, 20]),
            seed=0,
            epoch=0,
            global_batch_size=1,
            num_buckets=1,
            done=[Segment(2, 3)],
        )


def test_nothing_to_plan():
    arguments = {"seed": 0, "epoch": 0, "global_batch_size": 2, "num_buckets": 4}
    assert epoch_plan(np.array([], np.int64), **arguments) == []
    assert epoch_plan(np.array([5, 6]), **arguments, done=[Segment(1, 2)]) == []


@pytest.mark.parametrize("wrong", [{"global_batch_size": 0}, {"num_buckets": 0}])
def test_sizes_must_be_positive(wrong):
    arguments = {"seed": 0, "epoch": 0, "global_batch_size": 2, "num_buckets": 4, **wrong}
    with pytest.raises(ValueError, match="positive"):
        epoch_plan(np.array([1, 2]), **arguments)


@REPEATABLE
@given(LENGTHS, st.integers(1, 8))
def test_bucket_boundaries_split_evenly(num_samples, num_buckets):
    boundaries = bucket_boundaries(num_samples, num_buckets)
    assert len(boundaries) <= num_buckets - 1
    assert np.all(np.diff(boundaries) > 0)
    assert np.isin(boundaries, num_samples).all()
    if len(num_samples):
        assert np.all(boundaries < num_samples.max())
        if len(np.unique(num_samples)) == len(num_samples) >= num_buckets:
            counts = np.bincount(np.searchsorted(boundaries, num_samples))
            assert len(counts) == num_buckets and counts.max() - counts.min() <= 1


def test_bucket_boundaries():
    assert bucket_boundaries(np.array([4, 1, 3, 2]), 2).tolist() == [2]
    assert bucket_boundaries(np.array([7, 7, 7, 7]), 3).tolist() == []
    assert bucket_boundaries(np.array([1, 1, 1, 9]), 4).tolist() == [1]
    assert bucket_boundaries(np.array([5]), 8).tolist() == []


@REPEATABLE
@given(LENGTHS, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
def test_a_budget_is_of_every_process(num_samples, num_ranks, rows_per_rank, buckets, seed):
    longest = int(num_samples.max(initial=1))
    num_labels = np.random.default_rng(seed).integers(0, 9, len(num_samples))
    plan = epoch_plan(
        num_samples,
        seed=seed,
        epoch=0,
        global_batch_size=8 * num_ranks,
        num_buckets=2,
        max_batch_samples=rows_per_rank * longest,
        num_labels=num_labels,
        num_label_buckets=buckets,
        num_ranks=num_ranks,
    )
    assert sorted(flat(plan)) == list(range(len(num_samples)))
    for batch in plan:
        rows = -(-len(batch) // num_ranks)
        assert rows * num_samples[batch].max() <= rows_per_rank * longest and rows <= 8


def test_buckets_by_labels_pad_fewer_labels():
    rng = np.random.default_rng(0)
    num_samples = librispeech_like(2000)
    num_labels = (num_samples / 16000 * rng.uniform(5, 20, len(num_samples))).astype(int)

    def padding(num_label_buckets: int) -> float:
        plan = epoch_plan(
            num_samples,
            seed=0,
            epoch=0,
            global_batch_size=64,
            num_buckets=8,
            max_batch_samples=200 * 16000,
            num_labels=num_labels,
            num_label_buckets=num_label_buckets,
        )
        padded = sum(len(batch) * num_labels[batch].max() for batch in plan)
        return 1 - num_labels.sum() / padded

    assert padding(4) < 0.6 * padding(1)
