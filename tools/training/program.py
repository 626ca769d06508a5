"""The body of every training program: processes, device, task, run directory, loop."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import keras
import tensorflow as tf

from tools.config.command_line import CommandLine
from tools.errors import UserError
from tools.files import to_json
from tools.training import distributed, run_log
from tools.training.checkpoint import Checkpoint, RunFolders
from tools.training.config import TrainingConfig
from tools.training.distributed import Processes, from_first_rank
from tools.training.loop import LoopOptions, train
from tools.training.resuming import check_data
from tools.training.task import Task


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """What the command line says of a run beside its config.

    Attributes:
        steps: ends after so many; 0: all epochs.
        use_horovod: several processes; None: found out.
        use_gpu: insists on GPUs, or hides them; None: where there are some.
        use_profiler: traces steps 2 to 7 for TensorBoard.
        skip_eval: leaves the evaluation out.
        eval_at_start: evaluates once before the first step.
        dry_run: prints what would be trained, and ends.
    """

    steps: int = 0
    use_horovod: bool | None = None
    use_gpu: bool | None = None
    use_profiler: bool = False
    skip_eval: bool = False
    eval_at_start: bool = False
    dry_run: bool = False


def add_program_flags(flags: CommandLine) -> None:
    """Adds the flags of `ProgramOptions`, but for `use_gpu`, which families have in other words."""
    flags.group("Training")
    flags.integer("steps", 0, "Ends after this many steps; 0: after all epochs.")
    flags.group("Evaluation")
    flags.boolean("skip_eval", False, "Trains without evaluation.")
    flags.boolean("eval_at_start", False, "Evaluates once before the first step.")
    flags.group("Runtime")
    about = "Trains in several processes."
    flags.boolean("use_horovod", None, about, default_text="true under horovodrun")
    flags.boolean("use_profiler", False, "Traces steps 2 to 7 for TensorBoard.")
    flags.boolean("dry_run", False, "Prints shapes, parameters, steps and the config, then exits.")


class TrainingRun(Protocol):
    """What a family brings to its training program; the methods are called in this order.

    Attributes:
        training: the section of the config.
        start_epoch: epochs that count as done where no checkpoint continues.
        run_eagerly: runs every operation by itself, for debugging.
    """

    training: TrainingConfig
    start_epoch: int
    run_eagerly: bool

    def check(self, processes: Processes) -> None:
        """Refuses a number of processes that the config does not fit."""

    def folders(self) -> AbstractContextManager[RunFolders]:
        """Takes the folders of the run for rank 0 alone, until the block has ended."""

    def resumed(self, folders: RunFolders | None) -> Checkpoint | None:
        """Finds the checkpoint that continues, on rank 0; without `folders` nothing is written."""

    def make_task(
        self, processes: Processes, resumed: Checkpoint | None, needs_evaluation: bool
    ) -> Task:
        """Makes the task."""

    def check_resumed(self, resumed: Checkpoint, task: Task) -> None:
        """Refuses a config that changes what defines the run of a checkpoint."""

    def describe(self, task: Task, processes: Processes) -> str:
        """Says what `--dry_run` prints."""

    def prepare(self, folders: RunFolders, task: Task) -> None:
        """Writes what the run is made with, on rank 0 before the first step."""

    def log_file(self, folders: RunFolders, processes: Processes) -> Path | None:
        """Names the file for what this process logs; None: its terminal alone."""


def run_training(run: TrainingRun, options: ProgramOptions) -> int:
    """Trains from the start of the processes to the last line of results.

    Raises:
        UserError: bad options, or whatever the run refuses.
    """
    if options.steps < 0:
        raise UserError.expected("--steps >= 0", options.steps, "Correct the flag")
    processes = distributed.start(options.use_horovod)
    run.check(processes)
    _log_to_terminal(processes)
    # Before ranks talk to each other, which starts TensorFlow.
    logging.info(distributed.claim_devices(processes, options.use_gpu))
    with contextlib.ExitStack() as held:
        folders = None
        if not options.dry_run:
            folders = from_first_rank(processes, lambda: held.enter_context(run.folders()))
        results = _train_in(run, options, processes, folders)
    if folders is not None and processes.rank == 0:
        print(to_json(results))
    return 0


def _train_in(
    run: TrainingRun, options: ProgramOptions, processes: Processes, folders: RunFolders | None
) -> dict[str, float]:
    """Makes the task and trains it; without folders it tells about it in place of that."""
    resumed = from_first_rank(processes, lambda: run.resumed(folders))
    if run.training.deterministic:
        keras.utils.set_random_seed(run.training.seed)
        tf.config.experimental.enable_op_determinism()
    task = run.make_task(processes, resumed, not options.skip_eval)
    if folders is None:
        if processes.rank == 0:
            print(run.describe(task, processes))
        return {}

    def prepare() -> None:
        if resumed is not None:
            check_data(resumed, task)
            run.check_resumed(resumed, task)
        run.prepare(folders, task)

    from_first_rank(processes, prepare)
    loop_options = LoopOptions(
        resumed=resumed,
        start_epoch=run.start_epoch,
        max_steps=options.steps,
        skip_eval=options.skip_eval,
        eval_at_start=options.eval_at_start,
        use_profiler=options.use_profiler,
    )
    with log_to_file(run.log_file(folders, processes), processes), _eager(run.run_eagerly):
        places = dict.fromkeys((folders.records, folders.checkpoints, folders.best_checkpoints))
        logging.info("run directory: %s", ", ".join(map(str, places)))
        return train(task, run.training, processes, folders, options=loop_options)


def _log_to_terminal(processes: Processes) -> None:
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.INFO)  # the progress bar prints its lines itself
    logging.basicConfig(format="%(message)s", handlers=[console])
    logging.getLogger().setLevel(logging.INFO if processes.rank == 0 else logging.WARNING)


@contextlib.contextmanager
def log_to_file(path: Path | None, processes: Processes) -> Iterator[None]:
    """Writes what is logged, the lines above the progress bar included, to a file as well."""
    if path is None:
        yield
        return
    handler = logging.FileHandler(
        path, encoding="utf-8", errors="surrogateescape", delay=processes.rank > 0
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logging.getLogger().addHandler(handler)
    run_log.logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def _eager(run_eagerly: bool) -> Iterator[None]:
    tf.config.run_functions_eagerly(run_eagerly)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)
