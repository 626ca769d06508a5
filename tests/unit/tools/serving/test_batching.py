"""Dynamic batching: what runs together, what waits, and what is refused."""

import threading
from concurrent.futures import CancelledError

import pytest

from tools.serving.batching import Batcher, BatchingOptions, Closed, DeadlineExceeded, QueueFull

LONG = 60_000.0  # ms: longer than any test


class Held:
    """A run that waits until it may go on, and keeps the batches."""

    def __init__(self):
        self.batches, self.started, self.free = [], threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, items):
        self.batches.append(list(items))
        self.started.release()
        assert self.free.acquire(timeout=20)
        return [-item for item in items]


@pytest.fixture
def held():
    return Held()


@pytest.fixture
def batcher(held):
    """Returns a function that makes a batcher in which one batch runs already."""
    made = []

    def make(**options):
        clock = options.pop("clock", None)
        found = Batcher(
            held,
            BatchingOptions(**{"batch_timeout_ms": 0.0, **options}),
            **({"clock": clock} if clock else {}),
        )
        made.append(found)
        first = found.submit(0)
        assert held.started.acquire(timeout=20)
        return found, first

    yield make
    for _ in range(1000):
        held.free.release()
    for one in made:
        one.close()


def release(held, number=1000):
    for _ in range(number):
        held.free.release()


def test_inputs_that_wait_run_together_in_order(batcher, held):
    one, first = batcher(max_batch_size=3)
    futures = [one.submit(number) for number in range(1, 6)]
    release(held)
    assert first.result(20) == 0
    assert [future.result(20) for future in futures] == [-1, -2, -3, -4, -5]
    assert held.batches == [[0], [1, 2, 3], [4, 5]]


def test_a_full_batch_does_not_wait_for_the_timeout():
    with_timeout = Batcher(list, BatchingOptions(max_batch_size=2, batch_timeout_ms=LONG))
    futures = [with_timeout.submit(number) for number in (1, 2)]
    assert [future.result(20) for future in futures] == [1, 2]
    with_timeout.close()


def test_the_first_input_waits_for_others_until_the_timeout():
    batches = []

    def run(items):
        batches.append(len(items))
        return items

    one = Batcher(run, BatchingOptions(max_batch_size=8, batch_timeout_ms=200.0))
    futures = [one.submit(number) for number in range(3)]
    for future in futures:
        future.result(20)
    assert batches == [3]
    one.close()


def test_inputs_of_very_different_sizes_do_not_run_together(batcher, held):
    one, _ = batcher(max_batch_size=8, bucket_ratio=2.0)
    sizes = {1: 1.0, 2: 5.0, 3: 2.0, 4: 0.9, 5: 10.0, 6: 1.5, 7: 2.9}
    futures = [one.submit(number, size=size) for number, size in sizes.items()]
    release(held)
    for future in futures:
        future.result(20)
    assert held.batches == [[0], [1, 3, 6], [2, 5], [4], [7]]
    for batch in held.batches[1:]:
        assert max(sizes[x] for x in batch) <= 2 * min(sizes[x] for x in batch)


def test_only_inputs_with_equal_keys_run_together(held):
    one = Batcher(
        held, BatchingOptions(max_batch_size=8, batch_timeout_ms=0.0), key=lambda item: item % 3
    )
    futures = [one.submit(0)]
    assert held.started.acquire(timeout=20)
    futures += [one.submit(number) for number in range(1, 8)]
    release(held)
    assert [future.result(20) for future in futures] == [-number for number in range(8)]
    assert held.batches == [[0], [1, 4, 7], [2, 5], [3, 6]]
    one.close()


def test_the_oldest_input_is_always_in_the_next_batch(batcher, held):
    one, _ = batcher(max_batch_size=2, bucket_ratio=1.0)
    futures = [one.submit(number, size=1.0 + number % 2) for number in range(1, 7)]
    release(held)
    for future in futures:
        future.result(20)
    assert held.batches == [[0], [1, 3], [2, 4], [5], [6]]


def test_a_full_queue_refuses_all_inputs_of_a_request(batcher, held):
    one, _ = batcher(max_enqueued=3)
    one.submit_all([(1, 1.0), (2, 1.0)])
    with pytest.raises(QueueFull):
        one.submit_all([(3, 1.0), (4, 1.0)])
    assert one.num_enqueued == 2
    one.submit(5)
    with pytest.raises(QueueFull):
        one.submit(6)
    release(held)


def test_an_input_that_waited_too_long_does_not_run(batcher, held):
    now = [100.0]
    one, _ = batcher(clock=lambda: now[0])
    late, intime = one.submit(1, timeout_seconds=5.0), one.submit(2, timeout_seconds=50.0)
    now[0] += 5.0
    release(held)
    assert intime.result(20) == -2
    with pytest.raises(DeadlineExceeded):
        late.result(20)
    assert held.batches == [[0], [2]]


def test_a_cancelled_input_does_not_run(batcher, held):
    one, _ = batcher()
    left, stays = one.submit(1), one.submit(2)
    assert left.cancel()
    release(held)
    assert stays.result(20) == -2
    with pytest.raises(CancelledError):
        left.result(20)
    assert held.batches == [[0], [2]]


def test_a_bad_input_fails_alone():
    def run(items):
        return [1 / item for item in items]

    one = Batcher(run, BatchingOptions(max_batch_size=3, batch_timeout_ms=LONG))
    good, bad, other = (one.submit(number) for number in (1, 0, 4))
    assert (good.result(20), other.result(20)) == (1.0, 0.25)
    with pytest.raises(ZeroDivisionError):
        bad.result(20)
    one.close()


def test_a_run_that_returns_too_few_results_is_an_error():
    one = Batcher(lambda items: [], BatchingOptions(batch_timeout_ms=0.0))
    with pytest.raises(ValueError, match="shorter"):
        one.submit(1).result(20)
    one.close()


def test_close_answers_what_waits_and_refuses_the_rest():
    one = Batcher(list, BatchingOptions(batch_timeout_ms=LONG))
    waiting = one.submit(1)
    one.close()
    assert waiting.result(0) == 1
    with pytest.raises(Closed):
        one.submit(2)


def test_reports_of_batches():
    reports, now = [], [10.0]

    def run(items):
        now[0] += 3.0
        return items

    options = BatchingOptions(max_batch_size=2, batch_timeout_ms=LONG)
    one = Batcher(run, options, report=reports.append, clock=lambda: now[0])
    first = one.submit(1)
    now[0] += 2.0
    one.submit(2).result(20)
    first.result(20)
    one.close()
    assert reports == [(2, (2.0, 0.0), 3.0)]


def test_a_batch_is_reported_before_its_answers(held):
    order = []
    one = Batcher(held, report=lambda batch: order.append("report"))
    future = one.submit(1)
    future.add_done_callback(lambda _: order.append("answer"))
    held.free.release()
    assert future.result(timeout=20) == -1
    one.close()
    assert order == ["report", "answer"]
