"""Processes that train together: Horovod's, or a single one with the same interface."""

import os
import socket
from collections.abc import Callable
from typing import Protocol, TypeVar

import tensorflow as tf

from tools.errors import UserError

Value = TypeVar("Value")

_LAUNCHER_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


class Processes(Protocol):
    """What a program may ask of the processes it is one of."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    def sum(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Adds each tensor over all processes; differentiable, works in a graph."""

    def broadcast_variables(self, variables: list[tf.Variable]) -> None:
        """Gives every process the values of rank 0."""

    def broadcast_object(self, value: object) -> object:
        """Gives every process rank 0's picklable value."""

    def gather_objects(self, value: object) -> list[object]:
        """Gives every process the values of all, in the order of ranks."""

    def mean_variables(self, variables: list[tf.Variable]) -> None:
        """Replaces each variable by its mean over all processes."""


class SingleProcess:
    """One process: every operation is the identity."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def sum(self, tensors):
        """Returns the tensors."""
        return tensors

    def broadcast_variables(self, variables):
        """Does nothing."""

    def broadcast_object(self, value):
        """Returns the value."""
        return value

    def gather_objects(self, value):
        """Returns the value alone."""
        return [value]

    def mean_variables(self, variables):
        """Does nothing."""


class HorovodProcesses:
    """The processes of a `horovodrun`."""

    def __init__(self):
        try:
            import horovod.tensorflow as hvd
        except ImportError as error:
            raise UserError.expected(
                "Horovod in this environment",
                f"an import error ({error})",
                "Run `bash run_scripts/setup.sh`, or train with --use_horovod=False",
            ) from error
        name = socket.gethostname()
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            # Horovod 0.28 crashes the interpreter where Gloo cannot resolve its own host.
            raise UserError.expected(
                "a host name that resolves", name, f"Add the line `127.0.0.1 {name}` to /etc/hosts"
            ) from error
        # Ranks that share few cores arrive at very different times; Gloo's own limit is 30 s.
        os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "300")
        hvd.init()
        self._hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()

    def sum(self, tensors):
        """Adds by one fused allreduce."""
        return self._hvd.grouped_allreduce(tensors, op=self._hvd.Sum)

    def broadcast_variables(self, variables):
        """Broadcasts from rank 0."""
        self._hvd.broadcast_variables(variables, root_rank=0)

    def broadcast_object(self, value):
        """Broadcasts from rank 0 by pickle."""
        return self._hvd.broadcast_object(value, root_rank=0)

    def gather_objects(self, value):
        """Gathers by pickle."""
        return self._hvd.allgather_object(value)

    def mean_variables(self, variables):
        """Averages by one fused allreduce."""
        if variables:
            sums = self.sum([tf.convert_to_tensor(v) for v in variables])
            for variable, total in zip(variables, sums, strict=True):
                variable.assign(total / self.size)


def start(use_horovod: bool | None = None) -> Processes:
    """Joins the processes that were started together.

    Args:
        use_horovod: None finds out by itself whether `horovodrun` (or mpirun) started this process.
    """
    if use_horovod is None:
        use_horovod = any(name in os.environ for name in _LAUNCHER_VARIABLES)
    return HorovodProcesses() if use_horovod else SingleProcess()


def from_first_rank(processes: Processes, make: Callable[[], Value]) -> Value:
    """Makes a value on rank 0 and gives it, or the error, to every process.

    Raises:
        UserError: on rank 0, as `make` did.
        SystemExit: on the others, silently: one line is enough.
    """
    value = problem = None
    if processes.rank == 0:
        try:
            value = make()
        except UserError as error:
            problem = error
    value, problem = processes.broadcast_object((value, problem))
    if problem is not None:
        raise problem if processes.rank == 0 else SystemExit(2)
    return value


def claim_devices(processes: Processes, use_gpu: bool | None) -> str:
    """Takes this process's share of the machine: one GPU by local rank, or its part of the cores.

    Must run before TensorFlow touches a device, where there is a machine to share or a GPU to take.
    A process alone on its CPUs has nothing to ask for: TensorFlow takes every core by itself.

    Args:
        processes: from `start`.
        use_gpu: None takes a GPU where there is one, True insists on it, False hides them.

    Returns:
        A line that says what was taken.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if use_gpu and len(gpus) < processes.local_size:
        raise UserError.expected(
            f"a GPU for each of the {processes.local_size} processes of this machine",
            f"{len(gpus)} visible",
            "Start fewer processes or leave --use_gpu out",
        )
    if gpus and use_gpu is not False and len(gpus) >= processes.local_size:
        gpu = gpus[processes.local_rank]
        tf.config.set_visible_devices(gpu, "GPU")
        tf.config.experimental.set_memory_growth(gpu, True)
        return f"rank {processes.rank} of {processes.size} on {gpu.name}"
    tf.config.set_visible_devices([], "GPU")
    threads = max(1, len(os.sched_getaffinity(0)) // processes.local_size)
    if processes.local_size > 1:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    return f"rank {processes.rank} of {processes.size} on {threads} CPU thread(s)"
