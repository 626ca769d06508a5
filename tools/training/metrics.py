"""Means of training metrics and speeds over the steps between two log lines."""

import time

from tools.training.step import StepResult


class Window:
    """Collects steps; times include waiting for data, which is also told apart."""

    def __init__(self):
        self._reset()

    def _reset(self):
        self._started = time.perf_counter()
        self._waited = 0.0
        self._steps = 0
        self._weight = self._loss = self._norm = 0.0
        self._metrics = {}

    def wait(self, batches):
        """Takes the next batch, timing the wait."""
        before = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - before
        return batch

    def add(self, result: StepResult) -> None:
        """Counts a step; one without an update counts for speed only."""
        weight = float(result.weight)
        self._steps += 1
        self._weight += weight
        if bool(result.finite):
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
        seconds = max(time.perf_counter() - self._started, 1e-9)
        weight = max(self._weight, 1.0)
        return {
            "train/loss": self._loss / weight,
            "train/gradient_norm": self._norm,
            **{f"train/{name}": value / weight for name, value in self._metrics.items()},
            "perf/samples_per_second": self._weight / seconds,
            "perf/steps_per_second": self._steps / seconds,
            "perf/data_wait_share": self._waited / seconds,
        }
