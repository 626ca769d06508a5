"""Recognition in the processes of `horovodrun`, each of which recognizes a share of the sounds."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tools.config.command_line import CommandLine
from tools.conversion.machine import num_cores
from tools.errors import UserError
from tools.inference.opening import restrict_devices
from tools.launcher import uses_horovod

if TYPE_CHECKING:  # imports TensorFlow, which a converted model does without
    from tools.training.distributed import Processes

Value = TypeVar("Value")
_DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU of the machine


@dataclass(frozen=True, slots=True)
class Ranks:
    """The processes that recognize a data set together.

    Attributes:
        processes: the processes of Horovod; None if this process works alone.
    """

    processes: "Processes | None" = None

    @property
    def size(self) -> int:
        """Number of processes."""
        return self.processes.size if self.processes else 1

    @property
    def is_first(self) -> bool:
        """Whether this process prints and writes the results."""
        return self.processes is None or self.processes.rank == 0

    def on_every_rank(self, make: Callable[[], Value]) -> Value:
        """Calls `make` in every process. If it raises UserError, one process raises it."""
        if self.processes is None:
            return make()
        from tools.training.distributed import on_every_rank

        return on_every_rank(self.processes, make)

    def from_first_rank(self, make: Callable[[], Value]) -> Value:
        """Calls `make` in the first process and returns its result in every process."""
        if self.processes is None:
            return make()
        from tools.training.distributed import from_first_rank

        return from_first_rank(self.processes, make)

    def in_turn(self, make: Callable[[], Value]) -> Value:
        """Calls `make` in one process of each machine, then in the others.

        The first one converts a model, and the others find the converted model.
        """
        if self.processes is None:
            return make()
        leads = self.processes.local_rank == 0
        made = self.on_every_rank(lambda: make() if leads else None)
        return self.on_every_rank(lambda: made if leads else make())

    def share(self, items: Sequence[Value]) -> list[Value]:
        """Returns every N-th item, starting with the rank of this process, for N processes."""
        rank = self.processes.rank if self.processes else 0
        return list(items[rank :: self.size])

    def gather(self, value: Value) -> list[Value]:
        """Returns the values of all processes in the order of ranks."""
        return self.processes.gather_objects(value) if self.processes else [value]


ALONE = Ranks()


def add_horovod_flag(flags: CommandLine) -> None:
    """Adds `--use_horovod` to the command line of a program."""
    flags.group("Runtime")
    about = "Divides the sounds among the processes of horovodrun; the first one reports."
    flags.boolean("use_horovod", None, about, default_text="true if horovodrun started the program")


def start_ranks(use_horovod: bool | None) -> Ranks:
    """Connects to the other processes of `horovodrun`, if there are any.

    Args:
        use_horovod: value of `--use_horovod`.

    Raises:
        UserError: Horovod cannot be used.
    """
    if not uses_horovod(use_horovod):
        return ALONE
    from tools.training import distributed

    return Ranks(distributed.start(True))


def claim_devices(ranks: Ranks, visible_devices: str | None, threads: int | None) -> int | None:
    """Assigns devices to this process: the GPU of its local rank, and a share of the cores.

    Must be called before the processes communicate, which initializes TensorFlow's devices.

    Args:
        ranks: result of `start_ranks`.
        visible_devices: value of `--visible_devices`.
        threads: value of `--threads`.

    Returns:
        The number of threads of the runtime; None leaves the number to the runtime.

    Raises:
        UserError: `visible_devices` has another form, or a machine has fewer GPUs than processes.
    """
    processes = ranks.processes
    if processes is None or processes.local_size == 1:
        restrict_devices(visible_devices)
        return threads
    asked = os.environ.get("CUDA_VISIBLE_DEVICES") if visible_devices is None else visible_devices
    present = len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 0
    devices = [str(number) for number in range(present)]
    if asked is not None and devices:
        devices = [word for word in asked.replace(" ", "").split(",") if word not in ("", "-1")]
    if devices and len(devices) < processes.local_size:
        restrict_devices("-1")  # the processes still have to agree about the error
        raise UserError.expected(
            f"a GPU for each of the {processes.local_size} processes of this machine",
            len(devices),
            "Start fewer processes, or hide the GPUs with --visible_devices=-1",
        )
    restrict_devices(visible_devices)  # checks the form
    if devices:
        restrict_devices(devices[processes.local_rank])
    if threads is None:
        threads = max(1, num_cores() // processes.local_size)
    if 1 <= threads <= num_cores():
        from tools.conversion.saved_model import limit_threads

        limit_threads(threads)
    return threads
