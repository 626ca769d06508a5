"""A model that a server holds, and the queues through which its inputs run."""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from tools.conversion.protocol import TensorSpec
from tools.errors import UserError
from tools.inference.session import Session
from tools.serving.batching import Batch, Batcher, BatchingOptions, Closed
from tools.serving.joined_rows import JoinedRows, Tensors
from tools.serving.kinds import Images, Kind, NoFiles, kind_of
from tools.serving.tf_serving import DEFAULT_SIGNATURE

SERVE_BYTES = "serve_bytes"
_BYTES = (TensorSpec("bytes", "string", (None,)),)
_OF_RUNNER = ("mode", "backend", "precision")


class ServedModel:
    """A version of a model that answers requests.

    Files run in dynamic batches, and so do tensors of the same shape but for the rows.

    Args:
        name: name of the model in addresses.
        version: number of the version.
        session: the opened model, which is closed with this object.
        options: sizes and times of the batches.
        kind: how to use the session; None: as `kind_of` says.
        report: called with each batch that has run.

    Attributes:
        kind: how the server uses the session.
        signatures: inputs of each signature by name, with `serve_bytes`.
        described: version, task and signatures of the model, and mode, backend and precision of
            its runner, for the list of models.
    """

    def __init__(
        self,
        name: str,
        version: int,
        session: Session,
        options: BatchingOptions,
        *,
        kind: Kind | None = None,
        report: Callable[[Batch], None] = lambda batch: None,
    ):
        self.name, self.version, self.session = name, version, session
        self.kind = kind or kind_of(session)
        self.signatures: dict[str, Sequence[TensorSpec]] = dict(session.signatures)
        if self.kind.task != NoFiles.task:
            self.signatures[SERVE_BYTES] = _BYTES
        self.described = {
            "version": str(version),
            "task": self.kind.task,
            "signatures": sorted(self.signatures),
            "runner": {name: getattr(session.runner, name) for name in _OF_RUNNER},
        }
        self._released, self._num_held, self._is_closed = threading.Condition(), 0, False
        self._files: Batcher[Any, Any] = Batcher(
            self.kind.run, options, key=self.kind.key, report=report
        )
        rows = JoinedRows(session, options.max_batch_size)
        self._tensors: Batcher[Tensors, dict] = Batcher(
            rows.run, options, key=rows.key, report=report
        )

    @property
    def num_enqueued(self) -> int:
        """Number of inputs in the queues."""
        return self._files.num_enqueued + self._tensors.num_enqueued

    def check_classifies(self) -> None:
        """Checks that the model classifies images.

        Raises:
            UserError: it does another task.
        """
        if self.kind.task != Images.task:
            raise UserError.expected(
                "a classifier", f"{self.name}, which cannot classify", "Use predict"
            )

    def submit_files(
        self, items: Sequence[tuple[Any, float]], timeout_seconds: float = math.inf
    ) -> list[Future]:
        """Puts decoded files into the queue; see `Batcher.submit_all`.

        Args:
            items: results of `kind.read`.
            timeout_seconds: longest time in the queue.

        Raises:
            QueueFull: there is no room for all of them.
            Closed: the model is closed.
        """
        return self._files.submit_all(items, timeout_seconds=timeout_seconds)

    def submit_tensors(
        self,
        inputs: Mapping[str, np.ndarray],
        signature: str = DEFAULT_SIGNATURE,
        timeout_seconds: float = math.inf,
    ) -> "Future[dict[str, np.ndarray]]":
        """Puts a batch of tensors into the queue; see `Batcher.submit`.

        Raises:
            QueueFull: the queue is full.
            Closed: the model is closed.
        """
        return self._tensors.submit(Tensors(inputs, signature), timeout_seconds=timeout_seconds)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keeps the session open until the end of a `with` statement.

        Raises:
            Closed: the model is closed.
        """
        with self._released:
            if self._is_closed:
                raise Closed
            self._num_held += 1
        try:
            yield
        finally:
            with self._released:
                self._num_held -= 1
                self._released.notify_all()

    def close(self) -> None:
        """Answers what is in the queues, waits until nobody holds the model, and closes it."""
        with self._released:
            self._is_closed = True
        self._files.close()
        self._tensors.close()
        with self._released:
            self._released.wait_for(lambda: not self._num_held)
        self.session.close()
