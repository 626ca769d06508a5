"""The part of a training program that all families share: processes, devices, folders, loop."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
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
from tools.training.distributed import Processes, from_first_rank, on_every_rank
from tools.training.loop import LoopOptions, train
from tools.training.resuming import check_data, check_weights
from tools.training.task import Task


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """Options of a run that are not in its config.

    Attributes:
        steps: number of steps after which training ends; 0 trains all epochs.
        use_horovod: whether to use Horovod; None uses it if a launcher started the process.
        use_profiler: whether to profile steps 2 to 7 for TensorBoard.
        use_performance: whether to write the mean time of a step to `summary/summary.json`.
        skip_eval: whether to skip evaluation.
        eval_at_start: whether to evaluate once before the first step.
        dry_run: whether to print what would be trained, and end.
    """

    steps: int = 0
    use_horovod: bool | None = None
    use_profiler: bool = False
    use_performance: bool = False
    skip_eval: bool = False
    eval_at_start: bool = False
    dry_run: bool = False


def add_program_flags(flags: CommandLine) -> None:
    """Adds the flags of `ProgramOptions`."""
    flags.group("Training")
    flags.integer("steps", 0, "Number of steps after which training ends; 0 trains all epochs.")
    flags.group("Evaluation")
    flags.boolean("skip_eval", False, "Trains without evaluation.")
    flags.boolean("eval_at_start", False, "Evaluates once before the first step.")
    flags.group("Runtime")
    about = "Trains in several processes."
    flags.boolean("use_horovod", None, about, default_text="true if horovodrun started the program")
    flags.boolean("use_profiler", False, "Profiles steps 2 to 7 for TensorBoard.")
    about = "Writes throughput and seconds per step to summary/summary.json."
    flags.boolean("use_performance", False, about)
    flags.boolean("dry_run", False, "Prints shapes, parameters, steps and the config, then exits.")


class TrainingRun(Protocol):
    """Interface of a family's training program. The methods are called in this order.

    Attributes:
        training: section `training` of the config.
        start_epoch: number of epochs that count as done if the run is not resumed.
        run_eagerly: whether to run TensorFlow eagerly, for debugging.
        use_gpu: True requires GPUs, False hides them, None uses them if there are enough.
    """

    training: TrainingConfig
    start_epoch: int
    run_eagerly: bool
    use_gpu: bool | None

    def check(self, processes: Processes) -> None:
        """Checks that the config fits the number of processes.

        Raises:
            UserError: it does not.
        """

    def folders(self) -> AbstractContextManager[RunFolders]:
        """Creates and locks the folders of the run during the block; called on rank 0 only."""

    def resumed(self, folders: RunFolders | None) -> Checkpoint | None:
        """Returns the checkpoint to resume from, or None; called on rank 0 only.

        Args:
            folders: folders of the run; None for a dry run.
        """

    def make_task(
        self, processes: Processes, resumed: Checkpoint | None, needs_evaluation: bool
    ) -> Task:
        """Creates the task.

        Args:
            processes: processes of the run.
            resumed: checkpoint from which the run continues, or None.
            needs_evaluation: whether there will be evaluation.
        """

    def check_resumed(self, resumed: Checkpoint, task: Task) -> None:
        """Checks that the config does not change settings that a resumed run must keep.

        Raises:
            UserError: it does.
        """

    def describe(self, task: Task, processes: Processes) -> str:
        """Returns the text that `--dry_run` prints."""

    def prepare(self, folders: RunFolders, task: Task) -> None:
        """Writes config, versions and similar files; called on rank 0 before the first step."""

    def log_file(self, folders: RunFolders, processes: Processes) -> Path | None:
        """Returns the log file of this process, or None to log to the terminal only."""


def run_training(make_run: Callable[[], TrainingRun], options: ProgramOptions) -> int:
    """Runs a training program and prints the results as JSON.

    Args:
        make_run: function that returns the run of a family; called on every rank.
        options: options from the command line.

    Returns:
        The exit code, 0.

    Raises:
        UserError: an option is wrong, or training cannot start or continue; raised by one rank.
    """
    processes = distributed.start(options.use_horovod)
    run = on_every_rank(processes, lambda: _started(make_run, options, processes))
    with contextlib.ExitStack() as held:
        folders = None
        if not options.dry_run:
            folders = from_first_rank(processes, lambda: held.enter_context(run.folders()))
        results = _train_in(run, options, processes, folders)
    if folders is not None and processes.rank == 0:
        print(to_json(results))
    return 0


def _started(
    make_run: Callable[[], TrainingRun], options: ProgramOptions, processes: Processes
) -> TrainingRun:
    """Makes the run and claims devices, before ranks communicate: that initializes the devices."""
    try:
        if options.steps < 0:
            raise UserError.expected("--steps >= 0", options.steps, "Correct the flag")
        run = make_run()
        run.check(processes)
        _log_to_terminal(processes)
        logging.info(distributed.claim_devices(processes, run.use_gpu))
    except UserError:
        if processes.size > 1:  # the ranks still have to agree about the error
            tf.config.set_visible_devices([], "GPU")
        raise
    return run


def _train_in(
    run: TrainingRun, options: ProgramOptions, processes: Processes, folders: RunFolders | None
) -> dict[str, float]:
    """Creates the task and trains it. Without folders, prints its description instead."""
    resumed = from_first_rank(processes, lambda: run.resumed(folders))
    if run.training.deterministic:
        keras.utils.set_random_seed(run.training.seed)
        tf.config.experimental.enable_op_determinism()
    task = run.make_task(processes, resumed, not options.skip_eval)

    def prepare() -> None:
        if resumed is not None:
            check_data(resumed, task)
            run.check_resumed(resumed, task)
            check_weights(resumed, task)
        if folders is not None:
            run.prepare(folders, task)

    from_first_rank(processes, prepare)
    if folders is None:
        if processes.rank == 0:
            print(run.describe(task, processes))
        return {}
    loop_options = LoopOptions(
        resumed=resumed,
        start_epoch=run.start_epoch,
        max_steps=options.steps,
        skip_eval=options.skip_eval,
        eval_at_start=options.eval_at_start,
        use_profiler=options.use_profiler,
        use_performance=options.use_performance,
    )
    with log_to_file(run.log_file(folders, processes), processes), _eager(run.run_eagerly):
        places = dict.fromkeys((folders.records, folders.checkpoints, folders.best_checkpoints))
        logging.info("run directory: %s", ", ".join(map(str, places)))
        return train(task, run.training, processes, folders, options=loop_options)


def _log_to_terminal(processes: Processes) -> None:
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.INFO)  # DEBUG lines are those that the progress bar has printed
    logging.basicConfig(format="%(message)s", handlers=[console])
    logging.getLogger().setLevel(logging.INFO if processes.rank == 0 else logging.WARNING)


@contextlib.contextmanager
def log_to_file(path: Path | None, processes: Processes) -> Iterator[None]:
    """Logs to a file as well during the block, including the lines above the progress bar.

    Args:
        path: log file, or None to do nothing.
        processes: processes of the run; ranks other than 0 create the file only if they log.
    """
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
