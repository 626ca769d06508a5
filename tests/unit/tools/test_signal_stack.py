"""Signals are handled on the thread's own stack."""

import ctypes
import signal
import threading

import pytest

from tests.support.served import served
from tools.serving.app import create_app
from tools.serving.http_server import listen, serve
from tools.serving.repository import Repository
from tools.signal_stack import no_signal_stack
from tools.training.distributed import SingleProcess
from tools.training.stopping import stop_signals

DISABLED = 2


class Stack(ctypes.Structure):
    _fields_ = (("place", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def exchange(new=None):
    """Sets the alternate stack of this thread unless `new` is None; returns the one before."""
    before = Stack()
    given = None if new is None else ctypes.byref(new)
    assert ctypes.CDLL(None).sigaltstack(given, ctypes.byref(before)) == 0
    return before


@pytest.fixture
def stack():
    """This thread has an alternate stack, as with Python's faulthandler."""
    memory = ctypes.create_string_buffer(1 << 16)
    own = Stack(ctypes.addressof(memory), 0, len(memory))
    before = exchange(own)
    yield own
    exchange(before)


def test_the_stack_is_disabled_and_comes_back(stack):
    with pytest.raises(ZeroDivisionError), no_signal_stack():
        assert exchange().flags == DISABLED
        raise ZeroDivisionError
    found = exchange()
    assert (found.place, found.flags, found.size) == (stack.place, 0, stack.size)


def test_a_thread_without_one_stays_without():
    found = []

    def work():
        with no_signal_stack():
            pass
        found.append(exchange().flags)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [DISABLED]


def test_servers_and_training_handle_signals_without_it(stack, tmp_path):
    found = []

    def end():
        found.append(exchange().flags)
        signal.raise_signal(signal.SIGTERM)

    repository = Repository(lambda *place: served(*place[:2])[0], {"toy": tmp_path})
    with listen("127.0.0.1", 0) as own:
        serve(create_app(repository), own, drain_seconds=1.0, on_start=end)
    with stop_signals(SingleProcess, str):
        found.append(exchange().flags)
    assert found == [DISABLED] * 2
    assert exchange().flags == 0
