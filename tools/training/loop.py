"""The training loop, the same for every family."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tools.errors import UserError
from tools.files import to_json, write_text
from tools.training.checkpoint import Checkpoint, RunFolders
from tools.training.config import TrainingConfig
from tools.training.distributed import Processes
from tools.training.metrics import Window
from tools.training.resumable_run import ResumableRun
from tools.training.run_log import RunLog
from tools.training.schedule import learning_rate
from tools.training.step_times import StepTimes
from tools.training.stopping import Interrupted, StopSignals, stop_signals
from tools.training.task import Position, Task, TrainData, group_sizes

_PROFILED_STEPS = range(2, 8)  # counted in this process; the first step is a warm-up


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """Options of the loop that are not in the config."""

    resumed: Checkpoint | None = None  # checkpoint from which the run continues
    start_epoch: int = 0  # without a checkpoint: number of epochs that count as done
    max_steps: int = 0  # step after which training ends; 0 trains all epochs
    skip_eval: bool = False
    eval_at_start: bool = False
    use_profiler: bool = False
    use_performance: bool = False  # write summary/summary.json


def train(
    task: Task,
    config: TrainingConfig,
    processes: Processes,
    folders: RunFolders,
    *,
    options: LoopOptions,
) -> dict[str, float]:
    """Trains a task and returns the metrics of the last evaluation and the median speed.

    Args:
        task: model, data, loss and evaluators.
        config: section `training` of the config.
        processes: result of `distributed.start`.
        folders: folders of the run, the same on every process; only rank 0 writes.
        options: options from the command line.

    Raises:
        UserError: an epoch has no usable data, or a loss or gradient is not finite.
        SystemExit: a signal has ended the run, after its checkpoint was saved.
    """
    run = ResumableRun(task, config, processes, folders)
    run.restore(options.resumed, options.start_epoch)
    data = task.train_data(run.shard, run.position, config.num_epochs)
    run.plan_settings = data.settings
    epochs = range(run.position.epoch, config.num_epochs)
    remaining_steps = _num_updates(data, epochs, config.accumulate_steps)
    run.count_skipped_epochs(remaining_steps)
    run.train_step.compile(data.dataset.element_spec)
    total_steps = run.step + remaining_steps
    stop = options.max_steps or math.inf
    steps_per_epoch = total_steps / config.num_epochs
    written = folders.records if processes.rank == 0 else None
    log = RunLog(written, run.step, min(stop, total_steps), config.print_every_steps)
    profiler = _Profiler(written if options.use_profiler else None)
    signals = stop_signals(processes, run.stopping)
    with contextlib.closing(log), contextlib.closing(profiler), signals as signals:
        for line in task.report:
            log.say(line)
        batches, window, results, speeds = iter(data.dataset), Window(), {}, []
        times = StepTimes()
        if options.eval_at_start and run.step == 0:
            run.evaluate(log, 0, "before training")
        if not epochs and not options.skip_eval:
            results = run.evaluate(log, config.num_epochs, "nothing left to train")
        for epoch in epochs:
            seen = None  # number of rows in the loss; None before the first step
            for size in group_sizes(data.num_steps(epoch), config.accumulate_steps):
                if run.step >= stop:
                    break
                profiler.before_step()
                rate = learning_rate(config.schedule, run.step + 1, total_steps, steps_per_epoch)
                with times.step():
                    group = [window.wait(batches) for _ in range(size)]
                    result = run.train_step.accumulate(group, rate, signals.received)
                    names = [name for batch in group for name in data.names(batch)]
                    run.advance(result, names, size)
                    window.add(result)
                    seen = (seen or 0.0) + float(result.weight)
                log.advance(window.shown())
                if run.step % config.log_every_steps == 0 or run.step in (stop, total_steps):
                    values = window.close()
                    speeds.append(values["perf/samples_per_second"])
                    log.write(
                        run.step, epoch, {**values, **run.values(), "train/learning_rate": rate}
                    )
                if run.save_is_due():
                    run.save(None)
                if result.stop:
                    raise _saved(run, signals, log)
            else:
                run.position = Position(epoch + 1)
            if seen == 0.0:
                raise UserError.expected(
                    "training data",
                    "nothing usable in an epoch",
                    "See the warnings about dropped files above",
                )
            last, metric = run.step >= stop or epoch == epochs[-1], None
            if signals.received_by_any():
                raise _saved(run, signals, log)
            if not options.skip_eval and (last or (epoch + 1) % config.eval_every_epochs == 0):
                try:
                    with signals.interruptible():
                        results = run.evaluate(log, epoch, f"epoch {epoch + 1}, step {run.step}")
                except UserError:
                    run.save(None)  # keep the training if the evaluation fails
                    raise
                except Interrupted:
                    raise _saved(run, signals, log) from None
                metric = results.get(config.best_metric)
            run.save(metric)
            if last:
                break
    # The first window includes the compilation of the step.
    speed = float(np.median(speeds[1:] or speeds)) if speeds else 0.0
    summary = {**results, **run.values(), "perf/samples_per_second": speed, "step": run.step}
    if processes.rank == 0:
        write_text(folders.records / "summary.json", to_json(summary, indent=1))
        if options.use_performance and times.num_steps:
            rows = run.shard.global_batch_size * config.accumulate_steps
            content = to_json(times.summary(rows))
            write_text(folders.records / "summary" / "summary.json", content)
    return summary


def _num_updates(data: TrainData, epochs: range, accumulate_steps: int) -> int:
    """Returns the estimated number of updates of the epochs that are left."""
    if not epochs:
        return 0
    first = data.num_steps(epochs[0])
    num_updates = len(group_sizes(first, accumulate_steps))
    if later := len(epochs) - 1:
        each = round((data.remaining_steps - first) / later)
        num_updates += later * len(group_sizes(each, accumulate_steps))
    return num_updates


def _saved(run: ResumableRun, signals: StopSignals, log: RunLog) -> SystemExit:
    """Saves a checkpoint after a signal, prints a line, and returns the exception to raise."""
    if run.saved_step != run.step:
        run.save(None)
    log.say_last(f"ended by {signals.name}: saved the checkpoint of step {run.step} to resume from")
    return signals.end()


class _Profiler:
    """Profiles a few steps for TensorBoard; does nothing without a directory."""

    def __init__(self, directory: Path | None):
        self._directory, self._step, self._running = directory, 0, False

    def before_step(self) -> None:
        """Starts or ends the profile if the next step is the first or last one."""
        self._step += 1
        if self._directory and self._step == _PROFILED_STEPS.start:
            tf.profiler.experimental.start(str(self._directory / "tensorboard"))
            self._running = True
        elif self._step == _PROFILED_STEPS.stop:
            self.close()

    def close(self) -> None:
        """Ends the profile if it is running."""
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False
