"""Sessions: opened models that answer until they are closed, for any number of threads."""

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np

from tools.conversion.protocol import TensorSpec
from tools.errors import UserError
from tools.inference.runner import Runner

Inputs = Mapping[str, np.ndarray]


class Session:
    """An opened model.

    Threads may share it: batches of several threads run one after the other. A subclass adds what
    its users have (sounds, images) and what they want (texts, classes).

    Args:
        runner: of the model; no other code may use it.

    Attributes:
        pipeline: what the export says of the model.
        signatures: inputs of every signature by its name.
    """

    def __init__(self, runner: Runner):
        self.pipeline = runner.pipeline
        self.signatures: Mapping[str, tuple[TensorSpec, ...]] = runner.signatures
        self._runner: Runner | None = runner
        self._lock = threading.RLock()

    @property
    def runner(self) -> Runner:
        """What runs the model.

        Raises:
            UserError: the session is closed.
        """
        self.check_open()
        return self._runner

    def check_open(self) -> None:
        """Checks that the session was not closed.

        Raises:
            UserError: it was.
        """
        if self._runner is None:
            raise UserError.expected("an open session", "a closed one", "Load the model again")

    def run(self, inputs: Inputs, signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Runs a batch of tensors and returns the outputs by name.

        Args:
            inputs: by the names that `signatures` gives.
            signature: to run.

        Raises:
            UserError: the session is closed, or the inputs are not what the model takes.
            RuntimeError: the runtime fails on them.
        """
        self.check_open()
        if signature not in self.signatures:
            names = ", ".join(sorted(self.signatures))
            raise UserError.expected(f"a signature among {names}", signature, "Name one of them")
        with self._lock:
            return self._run(inputs, signature)

    def _run(self, inputs: Inputs, signature: str) -> dict[str, np.ndarray]:
        """Runs a batch for the thread that has the lock."""
        return self.runner.run(inputs, signature)

    def close(self) -> None:
        """Releases the model after the running batch has ended; calling it again does nothing."""
        with self._lock:
            self._runner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
