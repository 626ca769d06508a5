"""The state of a training run, with methods to save, restore, advance and evaluate it."""

import time

import numpy as np

from tools.errors import UserError
from tools.training.blocks import prepare_blocks
from tools.training.checkpoint import Checkpoint, restore
from tools.training.config import TrainingConfig
from tools.training.distributed import Processes, from_first_rank
from tools.training.kernels import choose_kernels
from tools.training.optimizer import Optimizer
from tools.training.precision import SMALLEST_SCALE, LossScale
from tools.training.run_log import RunLog
from tools.training.step import (
    StepResult,
    TrainStep,
    freeze,
    moving_statistics,
    seed_generators,
    seed_model,
)
from tools.training.task import Position, Shard, Task


class ResumableRun:
    """The state of a training run.

    Args:
        task: model, data, loss and evaluators.
        config: section `training` of the config.
        processes: result of `distributed.start`.
        folders: folders of the run, to which rank 0 writes checkpoints.

    Attributes:
        step: number of training steps so far, including those without an update. A step has
            `accumulate_steps` batches; the last one of an epoch may have fewer.
        position: position in the training data.
        plan_settings: `TrainData.settings`, which the position records.
        saved_step: step of the newest checkpoint, or None.
    """

    def __init__(self, task: Task, config: TrainingConfig, processes: Processes, folders):
        self.task, self.config, self.processes = task, config, processes
        statistics = moving_statistics(task.model)
        choose_kernels(task.model)
        prepare_blocks(task.blocks, config)
        freeze(task.model, config.freeze)
        variables = task.model.trainable_variables
        depths = [task.layer_depth(v.path) for v in variables]
        self.optimizer = Optimizer(config.optimizer, variables, statistics, depths)
        self.loss_scale = LossScale(config.loss_scale, config.precision)
        self.train_step = TrainStep(
            task, config, processes, self.optimizer, loss_scale=self.loss_scale
        )
        self.store = folders.store(config.checkpoint.keep_last, config.checkpoint.keep_best)
        self.shard = Shard(processes.rank, processes.size, config.batch_size)
        self.position, self.plan_settings = Position(), ()
        self.step = self.skipped_steps = self._skipped_in_a_row = 0
        self._saved_at_seconds = time.monotonic()
        self.saved_step: int | None = None

    def restore(self, checkpoint: Checkpoint | None, start_epoch: int) -> None:
        """Restores a checkpoint and makes the variables of all processes equal.

        Args:
            checkpoint: checkpoint of rank 0; None starts from the current variables.
            start_epoch: without a checkpoint, number of epochs that count as done.

        Raises:
            UserError: the checkpoint does not fit the model, or stopped inside an epoch with
                another seed, or with another number of batches for an update that does not divide
                the number of batches of the epoch so far.
        """
        checkpoint = self.processes.broadcast_object(checkpoint)
        counters = None
        self.position = Position(start_epoch)
        if checkpoint is not None:
            state = checkpoint.state
            self.saved_step = state["step"]
            self.step, self.skipped_steps = state["step"], state["skipped_steps"]
            done = tuple(tuple(segment) for segment in state["position"]["done"])
            self.position = Position(state["position"]["epoch"], done)
            seed = state["config"]["seed"]
            if done and seed != self.config.seed:
                raise UserError.expected(
                    f"seed {seed}, with which the epoch of {checkpoint.path} was shuffled",
                    self.config.seed,
                    f"Set training.seed to {seed}, or resume from the end of an epoch",
                )
            before, now = state["config"].get("accumulate_steps", 1), self.config.accumulate_steps
            if before != now and self.position.num_batches % now:
                raise UserError.expected(
                    f"training.accumulate_steps {before}, as in the run of {checkpoint.path}, or a "
                    f"divisor of its {self.position.num_batches} batches of the epoch so far",
                    now,
                    f"Set training.accumulate_steps to {before}, or resume from an epoch's end",
                )
            counters = state["random_counters"]
            if self.processes.rank == 0:
                self._assign(checkpoint)
        self.processes.broadcast_variables(
            [
                *(v.value for v in self.task.model.weights),
                *self.optimizer.state_variables,
                *self.loss_scale.variables.values(),
            ]
        )
        self.optimizer.read_variables()
        seed_model(self.task.model, self.config.seed, self.processes.rank, counters)

    def count_skipped_epochs(self, remaining_steps: int) -> None:
        """Sets the step after epochs that count as done, for the learning rate schedule.

        Args:
            remaining_steps: number of steps of the epochs that are left.
        """
        epoch, num_epochs = self.position.epoch, self.config.num_epochs
        if self.step == 0 < epoch < num_epochs:
            self.step = round(remaining_steps / (num_epochs - epoch) * epoch)

    def advance(self, result: StepResult, names: list[str], num_batches: int = 1) -> None:
        """Counts a step and checks that its loss and gradient were finite.

        Args:
            result: result of the step.
            names: names of the rows of this process, for the message.
            num_batches: number of batches of the step.

        Raises:
            UserError: on rank 0, if the loss or gradient was not finite and may not be skipped.
            SystemExit: on the other ranks in that case.
        """
        self.step += 1
        self.position = self.position.advanced(
            self.shard.global_batch_size, num_batches, self.plan_settings
        )
        if bool(result.finite):
            self._skipped_in_a_row = 0
            return
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        # Lowering a dynamic loss scale repairs an overflow of the gradient in float16, down to the
        # smallest scale. It rarely repairs a loss that is not finite.
        floor = SMALLEST_SCALE if np.isfinite(float(result.loss)) else 1.0
        overflow = self.loss_scale.dynamic and float(self.loss_scale.scale) > floor
        tolerated = overflow or self.config.on_non_finite == "skip"
        if tolerated and self._skipped_in_a_row <= self.config.max_skipped_steps:
            return
        bad = ~np.isfinite(result.examples.numpy())
        own = [name for name, is_bad in zip(names, bad, strict=True) if is_bad]
        culprits = [n for some in self.processes.gather_objects(own or []) for n in some]
        if self.processes.rank != 0:
            raise SystemExit(2)  # rank 0 prints the message
        raise UserError.expected(
            "a finite loss and gradient",
            f"loss {float(result.loss)}, gradient norm {float(result.gradient_norm)} at step "
            f"{self.step}, from {', '.join(culprits) or 'no single row'} "
            f"({self._skipped_in_a_row} in a row)",
            "Look at these inputs, lower the learning rate, or set training.on_non_finite: skip",
        )

    def stopping(self, signal: str) -> str:
        """Returns the line to print when a signal comes."""
        stands = "none" if self.saved_step is None else f"step {self.saved_step}"
        return (
            f"{signal}: the run saves a checkpoint after this step and ends "
            f"(last checkpoint so far: {stands})"
        )

    def values(self) -> dict[str, float]:
        """Returns the values of this state for the log."""
        values = {"train/skipped_steps": self.skipped_steps}
        if self.loss_scale.active:
            values["train/loss_scale"] = float(self.loss_scale.scale)
        return values

    def evaluate(self, log: RunLog, epoch: int, when: str) -> dict[str, float]:
        """Runs the evaluators, with the averaged weights if there are any, and logs the results.

        Args:
            log: log of the run.
            epoch: number of the epoch, for the log.
            when: start of the printed line, such as "epoch 3, step 1200".

        Returns:
            Metrics by name, such as `eval/wer`.
        """
        self._agree_on_statistics()
        started = time.perf_counter()
        with self.optimizer.averaged():
            results = self._results("")
        if self.optimizer.averages and self.config.evaluate_unaveraged:
            results |= self._results("_unaveraged")
        seconds = time.perf_counter() - started
        log.write(self.step, epoch, {**results, "perf/eval_seconds": seconds})
        log.say(f"{when}: " + ", ".join(f"{name} {x:.4f}" for name, x in results.items()))
        return results

    def _results(self, suffix: str) -> dict[str, float]:
        return {
            f"{name}{suffix}/{key}": value
            for name, evaluator in self.task.evaluators.items()
            for key, value in evaluator().items()
        }

    def save_is_due(self) -> bool:
        """Returns whether to save a checkpoint after this step; equal on all processes."""
        checkpoint = self.config.checkpoint
        if checkpoint.every_steps:
            return self.step % checkpoint.every_steps == 0
        # The clocks of processes differ: at logged steps all use the decision of rank 0.
        if not checkpoint.every_seconds or self.step % self.config.log_every_steps:
            return False
        seconds = time.monotonic() - self._saved_at_seconds
        return self.processes.broadcast_object(seconds >= checkpoint.every_seconds)

    def save(self, metric: float | None) -> None:
        """Writes a checkpoint on rank 0.

        Args:
            metric: value that ranks the checkpoint, or None without an evaluation.

        Raises:
            UserError: on rank 0, if it cannot be written.
            SystemExit: on the other ranks in that case.
        """
        self._agree_on_statistics()
        state = {
            "step": self.step,
            "position": {"epoch": self.position.epoch, "done": self.position.done},
            "skipped_steps": self.skipped_steps,
            "random_counters": [int(s[1]) for s in seed_generators(self.task.model)],
            "metric": metric,
            "larger_is_better": self.config.larger_is_better,
            "data": self.task.data_digest,
            "config": {
                "seed": self.config.seed,
                "world_size": self.processes.size,
                "accumulate_steps": self.config.accumulate_steps,
            },
        }
        from_first_rank(
            self.processes, lambda: self.store.save(state, self._groups(), self.task.assets)
        )
        self._saved_at_seconds = time.monotonic()
        self.saved_step = self.step

    def _agree_on_statistics(self):
        statistics = [v.value for v in self.optimizer.statistics]
        self.processes.mean_variables([*statistics, *self.optimizer.average_statistics])

    def _groups(self) -> dict[str, dict]:
        return {
            "model": self._weights(),
            "loss_scale": self.loss_scale.variables if self.loss_scale.active else {},
            **self.optimizer.state(),
        }

    def _weights(self) -> dict[str, object]:
        return {v.path: v for v in self.task.model.weights}

    def _assign(self, checkpoint: Checkpoint) -> None:
        source = str(checkpoint.path)
        restore(self._weights(), checkpoint.arrays("model"), source)
        groups = {name: checkpoint.arrays(name) for name in ("optimizer", "average")}
        self.optimizer.load_state(groups, source)
        # A checkpoint may have no loss scale: then the initial one is kept.
        scales = checkpoint.arrays("loss_scale")
        if self.loss_scale.active and scales:
            restore(self.loss_scale.variables, scales, source)
