"""Ranks as threads of one process, for what must hold on several processes."""

import pickle
import threading
import warnings
from collections.abc import Callable

import tensorflow as tf

_TIMEOUT_S = 60.0  # until a rank gives up one that has ended without it


class ThreadRank:
    """One of several ranks that run in threads; see `tools.training.distributed.Processes`.

    Functions must run eagerly (`tf.config.run_functions_eagerly`): `sum` is no graph operation.
    """

    def __init__(self, rank: int, barrier: threading.Barrier, board: list):
        self.rank = self.local_rank = rank
        self.size = self.local_size = len(board)
        self._barrier, self._board = barrier, board

    def gather_objects(self, value):
        """Gives copies of the values of all ranks."""
        self._board[self.rank] = pickle.dumps(value)
        self._barrier.wait()
        values = [pickle.loads(data) for data in self._board]
        self._barrier.wait()
        return values

    def broadcast_object(self, value):
        """Gives a copy of rank 0's value."""
        return self.gather_objects(value if self.rank == 0 else None)[0]

    def sum(self, tensors):
        """Adds over all ranks."""
        found = self.gather_objects([tf.convert_to_tensor(x).numpy() for x in tensors])
        return [tf.constant(sum(values)) for values in zip(*found, strict=True)]

    def broadcast_variables(self, variables):
        """Assigns rank 0's values."""
        values = self.broadcast_object([tf.convert_to_tensor(v).numpy() for v in variables])
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def mean_variables(self, variables):
        """Assigns the means."""
        for variable, total in zip(variables, self.sum(variables), strict=True):
            variable.assign(total / self.size)


def run_ranks(size: int, function: Callable[[ThreadRank], object]) -> list:
    """Runs a function on every rank at once.

    Returns:
        What it returned, or the exception that it raised, by rank.
    """
    barrier = threading.Barrier(size, timeout=_TIMEOUT_S)
    board, results = [None] * size, [None] * size

    def work(rank: int) -> None:
        try:
            results[rank] = function(ThreadRank(rank, barrier, board))
        except BaseException as error:  # SystemExit too is a result
            results[rank] = error

    threads = [threading.Thread(target=work, args=[rank]) for rank in range(size)]
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            # Functions of tf.data stay graphs; nothing of theirs crosses ranks.
            warnings.filterwarnings("ignore", "Even though the `tf.config.experimental_run_")
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        tf.config.run_functions_eagerly(False)
    return results
