"""Distributed training: the processes of Horovod, or a single process with the same interface."""

import os
import socket
from collections.abc import Callable
from typing import Protocol, TypeVar

import tensorflow as tf

from tools.amounts import counted
from tools.errors import UserError
from tools.launcher import uses_horovod

Value = TypeVar("Value")


class Processes(Protocol):
    """Communication between the processes of a training run.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, from 0.
        local_size: number of processes on this machine.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int

    def sum(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        """Sums each tensor over all processes; differentiable, may be called in a graph."""

    def broadcast_variables(self, variables: list[tf.Variable]) -> None:
        """Assigns the values of rank 0 to the variables of every process."""

    def broadcast_object(self, value: object) -> object:
        """Returns the value of rank 0 on every process; the value must be picklable."""

    def gather_objects(self, value: object) -> list[object]:
        """Returns the values of all processes on every process, in the order of ranks."""

    def mean_variables(self, variables: list[tf.Variable]) -> None:
        """Assigns to each variable its mean over all processes."""


class SingleProcess:
    """A single process: every operation returns its input or does nothing."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def sum(self, tensors):
        """Returns the tensors unchanged."""
        return tensors

    def broadcast_variables(self, variables):
        """Does nothing."""

    def broadcast_object(self, value):
        """Returns the value unchanged."""
        return value

    def gather_objects(self, value):
        """Returns a list with the value."""
        return [value]

    def mean_variables(self, variables):
        """Does nothing."""


class HorovodProcesses:
    """The processes of a run that `horovodrun` has started.

    Raises:
        UserError: Horovod is not installed, or the host name cannot be resolved.
    """

    def __init__(self):
        try:
            import horovod.tensorflow as hvd
        except ImportError as error:
            raise UserError.expected(
                "Horovod in this environment",
                f"an import error ({error})",
                "Run `bash run_scripts/setup.sh`, or use --use_horovod=False",
            ) from error
        name = socket.gethostname()
        try:
            socket.getaddrinfo(name, None)
        except OSError as error:
            # Horovod 0.28 crashes the interpreter if Gloo cannot resolve the host name.
            raise UserError.expected(
                "a host name that can be resolved",
                name,
                f"Add the line `127.0.0.1 {name}` to /etc/hosts",
            ) from error
        # Ranks that share few cores may start minutes apart; Gloo's default is 30 s.
        os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", "300")
        hvd.init()
        self._hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()

    def sum(self, tensors):
        """Sums the tensors with one fused allreduce."""
        return self._hvd.grouped_allreduce(tensors, op=self._hvd.Sum)

    def broadcast_variables(self, variables):
        """Broadcasts the variables from rank 0."""
        self._hvd.broadcast_variables(variables, root_rank=0)

    def broadcast_object(self, value):
        """Broadcasts the pickled value from rank 0."""
        return self._hvd.broadcast_object(value, root_rank=0)

    def gather_objects(self, value):
        """Gathers the pickled values."""
        return self._hvd.allgather_object(value)

    def mean_variables(self, variables):
        """Averages the variables with one fused allreduce."""
        if variables:
            sums = self.sum([tf.convert_to_tensor(v) for v in variables])
            for variable, total in zip(variables, sums, strict=True):
                variable.assign(total / self.size)


def start(use_horovod: bool | None = None) -> Processes:
    """Connects to the other processes of the run.

    Args:
        use_horovod: whether to use Horovod; None uses it if `horovodrun` or mpirun has started this
            process.

    Raises:
        UserError: Horovod cannot be used.
    """
    return HorovodProcesses() if uses_horovod(use_horovod) else SingleProcess()


def from_first_rank(processes: Processes, make: Callable[[], Value]) -> Value:
    """Calls `make` on rank 0 and returns its result on every process.

    Args:
        processes: processes of the run.
        make: function without arguments; its result must be picklable.

    Raises:
        UserError: on rank 0, if `make` raises it.
        SystemExit: on the other ranks in that case, so that the message is printed only once.
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


def on_every_rank(processes: Processes, make: Callable[[], Value]) -> Value:
    """Calls `make` on every rank, and returns each rank its own result.

    Args:
        processes: processes of the run.
        make: function without arguments.

    Raises:
        UserError: on the first rank whose `make` raises it.
        SystemExit: on the other ranks in that case, so that the message is printed only once.
    """
    value = problem = None
    try:
        value = make()
    except UserError as error:
        problem = error
    failed = processes.gather_objects(problem is not None)
    if True in failed:
        raise problem if problem and not any(failed[: processes.rank]) else SystemExit(2)
    return value


def claim_devices(processes: Processes, use_gpu: bool | None) -> str:
    """Assigns devices to this process: the GPU with the number of its local rank, or CPU threads.

    Must be called before TensorFlow initializes its devices. Several processes on the CPUs of one
    machine share its cores equally; a single process uses TensorFlow's default.

    Args:
        processes: result of `start`.
        use_gpu: None uses GPUs if there are enough, True requires them, False hides them.

    Returns:
        A line for the log, such as "rank 0 of 1 on 2 CPU threads".

    Raises:
        UserError: `use_gpu` is True and there are fewer GPUs than processes on this machine.
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
    unused = (
        f"; {counted(len(gpus), 'GPU')} not used, as asked for" if gpus and use_gpu is False else ""
    )
    return f"rank {processes.rank} of {processes.size} on {counted(threads, 'CPU thread')}{unused}"
