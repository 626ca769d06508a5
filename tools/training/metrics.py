"""Means of training metrics and speeds over the steps between two log lines."""

import math
import time
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from tools.training.step import StepResult


class Window:
    """Collects steps; times include waiting for data, which is also told apart.

    Args:
        clock: gives seconds.
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
        """Takes the next batch, timing the wait."""
        before = self._clock()
        batch = next(batches)
        self._waited += self._clock() - before
        return batch

    def add(self, result: StepResult) -> None:
        """Counts a step; one without an update counts for speed only."""
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
        """The numbers of the progress bar."""
        values = self._values()
        return {
            "loss": f"{values['train/loss']:.3f}",
            "samples/s": f"{values['perf/samples_per_second']:.1f}",
            "data wait": f"{values['perf/data_wait_share']:.0%}",
        }

    def close(self) -> dict[str, float]:
        """The values of the window; the next one starts."""
        values = self._values()
        self._reset()
        return values

    def _values(self):
        seconds = max(self._clock() - self._started, 1e-9)
        weight = self._updated_weight or math.nan  # of nothing there is no mean
        return {
            "train/loss": self._loss / weight,
            "train/gradient_norm": self._norm,
            **{f"train/{name}": value / weight for name, value in self._metrics.items()},
            "perf/samples_per_second": self._weight / seconds,
            "perf/steps_per_second": self._steps / seconds,
            "perf/data_wait_share": self._waited / seconds,
        }
