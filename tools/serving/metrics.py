"""Metrics of a server in Prometheus's format."""

from collections.abc import Callable
from typing import Protocol
from weakref import ref

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from tools.serving.batching import Batch

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Queued(Protocol):
    """A version of a model with queues."""

    @property
    def num_enqueued(self) -> int:
        """Returns the number of inputs in the queues."""


class Metrics:
    """Counts requests, errors and batches of a server.

    Args:
        folder: folder in which the processes of a server share their counts. It must be the value
            of PROMETHEUS_MULTIPROC_DIR since before prometheus_client was imported. None: the
            server has one process.
    """

    def __init__(self, folder: str | None = None):
        self._folder = folder
        self._queues: dict[str, list[ref[Queued]]] = {}
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "requests", "Answered requests.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "request_seconds",
            "Time from the start of a request to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._errors = Counter(
            "errors", "Refused and failed requests.", ("kind",), registry=self._registry
        )
        self._sizes = Histogram(
            "batch_size", "Inputs in a batch.", ("model",), buckets=_SIZES, registry=self._registry
        )
        self._waits = Histogram(
            "batch_wait_seconds",
            "Time of an input in the queue.",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._runs = Histogram(
            "batch_run_seconds",
            "Time of the run of a batch.",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._enqueued = Gauge(
            "enqueued",
            "Inputs in the queue.",
            ("model",),
            registry=self._registry,
            multiprocess_mode="livesum",
        )

    def request(self, route: str, status: str, seconds: float) -> None:
        """Counts an answered request."""
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)
        self._look_at_queues()

    def error(self, kind: str) -> None:
        """Counts a request that was refused or failed, by kind."""
        self._errors.labels(kind).inc()

    def batches_of(self, model: str) -> Callable[[Batch], None]:
        """Returns a function that counts the batches of a model."""

        def report(batch: Batch) -> None:
            self._sizes.labels(model).observe(batch.size)
            self._runs.labels(model).observe(batch.run_seconds)
            for seconds in batch.waited_seconds:
                self._waits.labels(model).observe(seconds)
            self._look_at_queues()

        return report

    def watch_queue(self, name: str, model: Queued) -> None:
        """Shows the length of the queues of a model's versions while they exist.

        Args:
            name: name of the model.
            model: a version of it.
        """
        # A new list: other threads read the one before.
        known = self._queues.get(name, [])
        self._queues[name] = [*(x for x in known if x() is not None), ref(model)]

    def _look_at_queues(self) -> None:
        for name, versions in list(self._queues.items()):
            models = [found for x in versions if (found := x()) is not None]
            self._enqueued.labels(name).set(sum(model.num_enqueued for model in models))

    def text(self) -> bytes:
        """Returns all metrics of all processes in Prometheus's text format."""
        self._look_at_queues()
        if self._folder is None:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=self._folder)
        return generate_latest(registry)
