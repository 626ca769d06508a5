"""Results by threads: at once, in order, a few ahead; errors and open files at their turn."""

import io
import os
import threading
import time

import pytest

from tests.support.errors import refused
from tools.errors import UserError
from tools.threads import in_threads, of_list, run_together


def test_threads_work_at_once_and_results_come_in_order():
    both = threading.Barrier(2, timeout=60)

    def work(number):
        if number < 2:
            both.wait()  # goes on only where two are at work
        time.sleep(0.01 * (number % 3))
        return 10 * number

    found = in_threads(work, range(9), ahead=3, num_threads=2)
    assert list(found) == [10 * number for number in range(9)]


def test_what_an_item_raises_is_raised_at_its_turn():
    def work(number):
        if number in (2, 3):
            raise ValueError(number)
        time.sleep(0.02 * (number < 2))  # the wrong ones end first
        return number

    found = in_threads(work, iter(range(100)), ahead=4, num_threads=4)
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match="2"):
        next(found)
    assert list(found) == []
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_no_more_is_begun_than_asked_for():
    items = iter(range(100))
    found = in_threads(str, items, ahead=3, num_threads=2)
    assert [next(found), next(found)] == ["0", "1"]
    assert next(items) == 5
    found.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_open_files_are_left_to_the_caller_at_their_turn():
    """Several may share a handle, as those of an archive do."""
    files = [io.BytesIO(b"0"), b"1", io.BytesIO(b"2"), b"3"]
    readers = {}

    def read(item):
        data = item if isinstance(item, bytes) else item.read()
        readers[data] = threading.current_thread()
        return data

    found = in_threads(read, files, ahead=4, num_threads=2)
    assert next(found) == b"0"
    assert not files[2].tell()
    assert list(found) == [b"1", b"2", b"3"]
    caller = threading.current_thread()
    assert [readers[name] is caller for name in (b"0", b"1", b"2", b"3")] == [
        True, False, True, False,
    ]  # fmt: skip


def test_functions_run_in_the_callers_thread_while_the_others_wait():
    release, waited, done = threading.Event(), [], []
    busy = [lambda: waited.append(release.wait(20))] * (os.cpu_count() + 1)
    caller = threading.Thread(target=run_together, args=[busy])
    caller.start()
    run_together([lambda: done.append(1), lambda: done.append(2)])
    release.set()
    caller.join()
    assert sorted(done) == [1, 2]
    assert waited == [True] * len(busy), "nobody waited for a free thread"


def test_an_error_tells_of_which_element_of_a_list_it_is():
    class OfAFile(UserError):
        path = "a.wav"

    def work(number):
        if number == 7:
            raise OfAFile("Expected another.")
        return number

    assert list(of_list("Sound", in_threads(work, range(5), ahead=2))) == list(range(5))
    found = of_list("Sound", in_threads(work, range(5, 9), ahead=2))
    assert [next(found), next(found)] == [5, 6]
    with refused("Sound 3 of the list: Expected another.", error=OfAFile):
        next(found)
