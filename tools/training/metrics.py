"""Means of training metrics, and speed, over the steps between two log records."""

import math
import time
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from tools.training.step import StepResult


class Window:
    """Collects training steps and computes their means and speed.

    The time includes waiting for data; the share of waiting is reported separately.

    Args:
        clock: function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._reset()

    def _reset(self):
        self._started = self._clock()
        self._waited = 0.0
        self._steps = 0
        self._weight = self._updated_weight = self._loss = self._norm = 0.0
        self._metrics = {}

    def wait(self, batches: Iterator[Mapping[str, tf.Tensor]]) -> Mapping[str, tf.Tensor]:
        """Returns the next batch and measures the time of waiting for it."""
        before = self._clock()
        batch = next(batches)
        self._waited += self._clock() - before
        return batch

    def add(self, result: StepResult) -> None:
        """Adds a step. A step without an update counts for the speed only."""
        weight = float(result.weight)
        self._steps += 1
        self._weight += weight
        if bool(result.finite):
            self._updated_weight += weight
            self._loss += float(result.loss) * weight
            self._norm = float(result.gradient_norm)
            for name, value in result.metrics.items():
                self._metrics[name] = self._metrics.get(name, 0.0) + float(value) * weight

    def shown(self) -> dict[str, str]:
        """Returns the values for the progress bar as text."""
        values = self._values()
        return {
            "loss": f"{values['train/loss']:.3f}",
            "samples/s": f"{values['perf/samples_per_second']:.1f}",
            "data wait": f"{values['perf/data_wait_share']:.0%}",
        }

    def close(self) -> dict[str, float]:
        """Returns the values of the steps since the last call, and starts again."""
        values = self._values()
        self._reset()
        return values

    def _values(self):
        seconds = max(self._clock() - self._started, 1e-9)
        weight = self._updated_weight or math.nan  # without rows the means are NaN
        return {
            "train/loss": self._loss / weight,
            "train/gradient_norm": self._norm,
            **{f"train/{name}": value / weight for name, value in self._metrics.items()},
            "perf/samples_per_second": self._weight / seconds,
            "perf/steps_per_second": self._steps / seconds,
            "perf/data_wait_share": self._waited / seconds,
        }
