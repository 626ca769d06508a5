"""Sessions: opened models that several threads can use until they are closed."""

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

    Several threads can share a session; their batches run one after the other. Subclasses convert
    sounds or images to inputs, and outputs to texts or classes.

    Args:
        runner: runner of the model; no other code may use it.

    Attributes:
        pipeline: content of the model's `pipeline.json`.
        signatures: inputs of each signature, by the name of the signature.
    """

    def __init__(self, runner: Runner):
        self.pipeline = runner.pipeline
        self.signatures: Mapping[str, tuple[TensorSpec, ...]] = runner.signatures
        self._runner: Runner | None = runner
        self._lock = threading.RLock()

    @property
    def runner(self) -> Runner:
        """Runner of the model.

        Raises:
            UserError: the session is closed.
        """
        self.check_open()
        return self._runner

    def check_open(self) -> None:
        """Checks that the session is open.

        Raises:
            UserError: the session is closed.
        """
        if self._runner is None:
            raise UserError.expected("an open session", "a closed one", "Load the model again")

    def run(self, inputs: Inputs, signature: str = "serving_default") -> dict[str, np.ndarray]:
        """Runs a batch of tensors.

        Args:
            inputs: arrays by name; `signatures` lists the names.
            signature: name of the signature to run.

        Returns:
            The outputs by name.

        Raises:
            UserError: the session is closed, the signature does not exist, the inputs do not fit
                it, or the runtime refuses their values.
            RuntimeError: the runtime fails on them.
        """
        self.check_open()
        if signature not in self.signatures:
            names = ", ".join(sorted(self.signatures))
            raise UserError.expected(f"a signature among {names}", signature, "Name one of them")
        with self._lock:
            return self._run(inputs, signature)

    def _run(self, inputs: Inputs, signature: str) -> dict[str, np.ndarray]:
        """Runs a batch; the calling thread holds the lock."""
        return self.runner.run(inputs, signature)

    def close(self) -> None:
        """Closes the session after the running batch. Further calls do nothing."""
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
