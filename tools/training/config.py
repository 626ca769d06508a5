"""Configuration of the training engine: the `training` section of every family's config."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from tools.errors import UserError
from tools.ranges import number


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Optimizer and what happens to gradients before it."""

    name: Literal["adam", "adamw", "momentum"] = "adamw"
    beta_1: float = number(0.9, at_least=0, below=1)
    beta_2: float = number(0.98, at_least=0, below=1)
    epsilon: float = number(1e-9, above=0)
    momentum: float = number(0.9, at_least=0, below=1)  # momentum only
    # Of kernels only: adamw apart from the gradient, momentum within it.
    weight_decay: float = number(0.0, at_least=0)
    clip_norm: float | None = number(None, above=0)  # global norm of the mean gradient
    # EMA of the weights; evaluated and exported in their place.
    average_decay: float | None = number(None, at_least=0, below=1)
    # Learning rate of a layer in that of the one above it.
    layer_decay: float | None = number(None, above=0, at_most=1)


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """Learning rate by step; see `schedule.learning_rate`."""

    name: Literal["transformer", "cosine", "multistep", "exponential", "one_cycle", "constant"] = (
        "transformer"
    )
    peak: float = number(1e-3, above=0)
    warmup_steps: int = number(1000, at_least=0)
    warmup_epochs: float | None = number(None, at_least=0)  # in place of warmup_steps
    warmup_initial: float = number(0.0, at_least=0)  # where the warm-up sets out
    # cosine, one_cycle: learning rate at the last step; of others the floor
    final: float = number(0.0, at_least=0)
    decay_epochs: float = number(30.0, above=0)  # multistep: epochs between two falls
    # multistep: factor of a fall; exponential: factor of an epoch
    decay_rate: float = number(0.97, above=0, at_most=1)
    by_epoch: bool = False  # every step of an epoch has the rate of the epoch's beginning

    def validate(self) -> None:
        """Checks that the rates are in order."""
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
    """Loss scaling, active under mixed_float16 only."""

    mode: Literal["dynamic", "fixed"] = "dynamic"
    initial: float = number(32768.0, above=0, at_most=2.0**24)
    growth_steps: int = number(2000, at_least=1)


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Which checkpoints are written and which are kept."""

    every_steps: int = number(0, at_least=0)  # beside those at the end of every epoch
    every_seconds: float = number(0.0, at_least=0)  # by the clock, where every_steps is 0
    keep_last: int = number(3, at_least=1)
    keep_best: int = number(1, at_least=0)


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How long, how large, how precise."""

    batch_size: int = number(4, at_least=1, at_most=1 << 20)  # utterances or images of one process
    num_epochs: int = number(50, at_least=1)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    seed: int = number(0, at_least=0, below=2**32)  # what NumPy takes
    deterministic: bool = False  # bitwise repeatable operations, slower
    synchronize_batch_norm: bool = False  # sum batch norm's moments over all processes
    on_non_finite: Literal["stop", "skip"] = "stop"
    max_skipped_steps: int = number(100, at_least=0)  # in a row, with on_non_finite: skip
    freeze: tuple[str, ...] = ()  # patterns of layers that stay as they are: stem, block_[0-3]
    log_every_steps: int = number(10, at_least=1)
    # A line on the terminal beside the progress bar; 0: none.
    print_every_steps: int = number(0, at_least=0)
    eval_every_epochs: int = number(1, at_least=1)
    evaluate_unaveraged: bool = False  # beside the average, the weights themselves
    best_metric: str = "eval/wer"
    larger_is_better: bool = False  # of best_metric
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)


def check_best_metric(config: TrainingConfig, metrics: Sequence[str]) -> None:
    """Refuses a metric of the best checkpoint that no evaluation gives.

    Args:
        config: of a run.
        metrics: what the family's evaluation gives of the evaluation set.
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
