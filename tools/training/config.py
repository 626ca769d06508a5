"""Config of training: the section `training` of every family's config."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tools.errors import UserError
from tools.ranges import number


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Optimizer, weight decay, gradient clipping and averaging of the weights."""

    name: Literal["adam", "adamw", "momentum"] = "adamw"
    beta_1: float = number(0.9, at_least=0, below=1)
    beta_2: float = number(0.98, at_least=0, below=1)
    epsilon: float = number(1e-9, above=0)
    momentum: float = number(0.9, at_least=0, below=1)  # momentum only
    # Of kernels only. adamw applies it apart from the gradient, momentum adds it to the gradient.
    weight_decay: float = number(0.0, at_least=0)
    clip_norm: float | None = number(None, above=0)  # bound of the gradient's global norm
    # Decay of the EMA of the weights, which is evaluated and exported instead of the weights.
    average_decay: float | None = number(None, at_least=0, below=1)
    # Factor of the learning rate from each layer to the layer below it.
    layer_decay: float | None = number(None, above=0, at_most=1)


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """Learning rate schedule; see `schedule.learning_rate`."""

    name: Literal["transformer", "cosine", "multistep", "exponential", "one_cycle", "constant"] = (
        "transformer"
    )
    peak: float = number(1e-3, above=0)
    warmup_steps: int = number(1000, at_least=0)
    warmup_epochs: float | None = number(None, at_least=0)  # replaces warmup_steps
    warmup_initial: float = number(0.0, at_least=0)  # learning rate at the start of the warm-up
    # cosine, one_cycle: learning rate at the last step; others: smallest learning rate
    final: float = number(0.0, at_least=0)
    decay_epochs: float = number(30.0, above=0)  # multistep: epochs between two decays
    # multistep: factor of each decay; exponential: factor per epoch
    decay_rate: float = number(0.97, above=0, at_most=1)
    by_epoch: bool = False  # all steps of an epoch have the rate of its first step

    def validate(self) -> None:
        """Raises UserError if the warm-up is missing, or a rate is above the peak."""
        warmup = self.warmup_steps if self.warmup_epochs is None else self.warmup_epochs
        if warmup == 0 and self.name == "transformer":
            raise UserError.expected(
                "schedule.warmup_steps or warmup_epochs above 0 for transformer",
                warmup,
                "Correct the schedule",
            )
        if max(self.warmup_initial, self.final) > self.peak:
            raise UserError.expected(
                f"schedule.warmup_initial and schedule.final from 0 to the peak, {self.peak}",
                f"{self.warmup_initial} and {self.final}",
                "Correct the schedule",
            )


@dataclass(frozen=True, slots=True)
class LossScaleConfig:
    """Loss scaling, used with precision mixed_float16 only."""

    mode: Literal["dynamic", "fixed"] = "dynamic"
    initial: float = number(32768.0, above=0, at_most=2.0**24)
    growth_steps: int = number(2000, at_least=1)


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """When checkpoints are written, and which are kept."""

    every_steps: int = number(0, at_least=0)  # besides those at the end of every epoch
    every_seconds: float = number(0.0, at_least=0)  # used if every_steps is 0
    keep_last: int = number(3, at_least=1)
    keep_best: int = number(1, at_least=0)


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """Duration, batch size, precision and records of training."""

    batch_size: int = number(4, at_least=1, at_most=1 << 20)  # utterances or images per process
    # Number of batches whose gradients are added for one update. The update is that of one batch
    # with the rows of all of them, except for batch norm.
    accumulate_steps: int = number(1, at_least=1, at_most=1 << 16)
    num_epochs: int = number(50, at_least=1)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    seed: int = number(0, at_least=0, below=2**32)  # the range of NumPy's seeds
    # blocks: training keeps the inputs of the model's blocks only, and computes each block again in
    # the backward pass. It takes much less memory and more time.
    rematerialize: Literal["none", "blocks"] = "none"
    deterministic: bool = False  # use bitwise reproducible operations, which are slower
    synchronize_batch_norm: bool = False  # compute batch norm's moments over all processes
    on_non_finite: Literal["stop", "skip"] = "stop"  # after a loss or gradient that is not finite
    max_skipped_steps: int = number(100, at_least=0)  # in a row, with on_non_finite: skip
    freeze: tuple[str, ...] = ()  # patterns of layers that are not trained: stem, block_[0-3]
    log_every_steps: int = number(10, at_least=1)
    # Prints a line above the progress bar every so many steps; 0 prints none.
    print_every_steps: int = number(0, at_least=0)
    eval_every_epochs: int = number(1, at_least=1)
    evaluate_unaveraged: bool = False  # besides the average, also evaluate the weights
    best_metric: str = "eval/wer"  # metric that selects the best checkpoints
    larger_is_better: bool = False  # whether larger values of best_metric are better
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


def check_best_metric(config: TrainingConfig, metrics: Sequence[str]) -> None:
    """Checks that evaluation returns the metric that selects the best checkpoint.

    Args:
        config: section `training` of the config.
        metrics: names of the metrics that the family's evaluation returns.

    Raises:
        UserError: evaluation does not return `best_metric`.
    """
    names = [f"eval/{name}" for name in metrics]
    if config.evaluate_unaveraged:
        names += [f"eval_unaveraged/{name}" for name in metrics]
    if config.best_metric not in names:
        raise UserError.expected(
            f"training.best_metric one of {', '.join(names)}",
            config.best_metric,
            "Correct training.best_metric",
        )
