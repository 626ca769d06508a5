"""Configuration of the training engine: the `training` section of every family's config."""

import math
from dataclasses import dataclass, field
from typing import Literal

from tools.errors import UserError


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Optimizer and what happens to gradients before it."""

    name: Literal["adam", "adamw", "momentum"] = "adamw"
    beta_1: float = 0.9
    beta_2: float = 0.98
    epsilon: float = 1e-9
    momentum: float = 0.9  # momentum only
    weight_decay: float = 0.0  # kernels only: adamw apart from the gradient, momentum within it
    clip_norm: float | None = None  # global norm of the mean gradient
    average_decay: float | None = None  # EMA of the weights; evaluated and exported in their place
    layer_decay: float | None = None  # learning rate of a layer in that of the one above it

    def validate(self) -> None:
        """Checks ranges."""
        decay, norm = self.average_decay, self.clip_norm
        if not (decay is None or 0 <= decay < 1) or not (norm is None or norm > 0):
            raise UserError.expected(
                "optimizer.average_decay in [0, 1) or null, optimizer.clip_norm > 0 or null",
                f"{decay}, {norm}",
                "Correct the optimizer section",
            )
        shares = {name: getattr(self, name) for name in ("beta_1", "beta_2", "momentum")}
        wrong = {name: x for name, x in shares.items() if not 0 <= x < 1}
        if self.layer_decay is not None and not 0 < self.layer_decay <= 1:
            wrong["layer_decay"] = self.layer_decay
        if not (0 <= self.weight_decay < math.inf and 0 < self.epsilon < math.inf):
            wrong |= {"weight_decay": self.weight_decay, "epsilon": self.epsilon}
        if wrong:
            raise UserError.expected(
                "optimizer.beta_1, beta_2 and momentum in [0, 1), layer_decay above 0 and up to 1 "
                "or null, weight_decay >= 0, epsilon > 0",
                ", ".join(f"{name} {value}" for name, value in wrong.items()),
                "Correct the optimizer section",
            )


@dataclass(frozen=True, slots=True)
class ScheduleConfig:
    """Learning rate by step; see `schedule.learning_rate`."""

    name: Literal["transformer", "cosine", "multistep", "exponential", "one_cycle", "constant"] = (
        "transformer"
    )
    peak: float = 1e-3
    warmup_steps: int = 1000
    warmup_epochs: float | None = None  # in place of warmup_steps
    warmup_initial: float = 0.0  # where the warm-up sets out
    final: float = 0.0  # cosine, one_cycle: learning rate at the last step; of others the floor
    decay_epochs: float = 30.0  # multistep: epochs between two falls
    decay_rate: float = 0.97  # multistep: factor of a fall; exponential: factor of an epoch
    by_epoch: bool = False  # every step of an epoch has the rate of the epoch's beginning

    def validate(self) -> None:
        """Checks ranges."""
        warmup = self.warmup_steps if self.warmup_epochs is None else self.warmup_epochs
        finite = warmup < math.inf and self.peak < math.inf
        positive = warmup > 0 or (warmup == 0 and self.name != "transformer")
        if not (finite and positive and self.peak > 0):
            raise UserError.expected(
                "finite schedule.warmup_steps or warmup_epochs >= 0 (transformer: above 0) and "
                "schedule.peak > 0",
                f"{warmup} and {self.peak}",
                "Correct the schedule",
            )
        if self.decay_epochs <= 0 or not 0 < self.decay_rate <= 1:
            raise UserError.expected(
                "schedule.decay_epochs > 0 and schedule.decay_rate above 0 and up to 1",
                f"{self.decay_epochs} and {self.decay_rate}",
                "Correct the schedule",
            )
        if not 0 <= self.warmup_initial <= self.peak or not 0 <= self.final <= self.peak:
            raise UserError.expected(
                f"schedule.warmup_initial and schedule.final from 0 to the peak, {self.peak}",
                f"{self.warmup_initial} and {self.final}",
                "Correct the schedule",
            )


@dataclass(frozen=True, slots=True)
class LossScaleConfig:
    """Loss scaling, active under mixed_float16 only."""

    mode: Literal["dynamic", "fixed"] = "dynamic"
    initial: float = 32768.0
    growth_steps: int = 2000

    def validate(self) -> None:
        """Checks ranges."""
        if not 0 < self.initial < math.inf or self.growth_steps < 1:
            raise UserError.expected(
                "a finite loss_scale.initial > 0 and loss_scale.growth_steps >= 1",
                f"{self.initial} and {self.growth_steps}",
                "Correct the loss_scale section",
            )


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """Which checkpoints are written and which are kept."""

    every_steps: int = 0  # beside those at the end of every epoch
    every_seconds: float = 0.0  # the same by the clock, where every_steps is 0
    keep_last: int = 3
    keep_best: int = 1

    def validate(self) -> None:
        """Checks ranges."""
        if self.keep_last < 1 or min(self.keep_best, self.every_steps, self.every_seconds) < 0:
            raise UserError.expected(
                "checkpoint.keep_last >= 1; keep_best, every_steps and every_seconds >= 0",
                f"{self.keep_last}; {self.keep_best}, {self.every_steps}, {self.every_seconds}",
                "Correct the checkpoint section",
            )


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How long, how large, how precise."""

    batch_size: int = 4  # utterances or images of one process
    num_epochs: int = 50
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    seed: int = 0
    deterministic: bool = False  # bitwise repeatable operations, slower
    synchronize_batch_norm: bool = False  # sum batch norm's moments over all processes
    on_non_finite: Literal["stop", "skip"] = "stop"
    max_skipped_steps: int = 100  # in a row, with on_non_finite: skip
    freeze: tuple[str, ...] = ()  # patterns of layers that stay as they are: stem, block_[0-3]
    log_every_steps: int = 10
    print_every_steps: int = 0  # a line on the terminal beside the progress bar; 0: none
    eval_every_epochs: int = 1
    evaluate_unaveraged: bool = False  # beside the average, the weights themselves
    best_metric: str = "eval/wer"
    larger_is_better: bool = False  # of best_metric
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss_scale: LossScaleConfig = field(default_factory=LossScaleConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def validate(self) -> None:
        """Checks ranges."""
        lows = dict.fromkeys(
            ("batch_size", "num_epochs", "log_every_steps", "eval_every_epochs"), 1
        )
        lows |= {"print_every_steps": 0, "max_skipped_steps": 0}
        for name, low in lows.items():
            if getattr(self, name) < low:
                raise UserError.expected(
                    f"training.{name} >= {low}", getattr(self, name), f"Set training.{name}"
                )
        if not 0 <= self.seed < 2**32:  # what NumPy takes
            raise UserError.expected(
                "training.seed from 0 to 4294967295", self.seed, "Set training.seed"
            )
