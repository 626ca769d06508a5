"""Stand-ins for models that a server holds."""

import threading

import numpy as np

from tools.conversion.protocol import TensorSpec
from tools.errors import UserError
from tools.inference.session import Session
from tools.serving.batching import BatchingOptions
from tools.serving.served_model import ServedModel

PAIR = (TensorSpec("x", "float32", (None, 2)), TensorSpec("n", "int32", (None,)))


class FakeRunner:
    """Computes `y = factor * x` and `label`, and waits while `gate` is closed."""

    mode, backend, precision = "eager", "numpy", "fp32"

    def __init__(self, factor=2.0):
        self.pipeline = {"family": "toy"}
        half = (TensorSpec("x", "float32", (None,)),)
        self.signatures = {"serving_default": PAIR, "half": half}
        self.factor, self.gate, self.sizes = factor, threading.Event(), []
        self.gate.set()
        self.begun = threading.Event()

    def run(self, inputs, signature="serving_default"):
        self.begun.set()
        assert self.gate.wait(20)
        self.sizes.append(len(inputs["x"]))
        if signature == "half":
            return {"y": inputs["x"] / 2}
        if (inputs["n"] < 0).any():
            raise UserError.expected("n >= 0", "a negative one", "Correct n")
        labels = np.array([f"n{number}".encode() for number in inputs["n"]], object)
        return {"y": self.factor * inputs["x"], "label": labels}


class FilesKind:
    """Reads files of text and answers with their words; `bad` in a file is refused."""

    task = "classify"

    def __init__(self, runner):
        self._runner = runner

    def read(self, content):
        text = content.decode("utf-8", "replace")
        if "bad" in text:
            raise UserError.expected("a good file", "a bad one", "Write it again")
        return text, float(len(text) + 1)

    def key(self, item):
        return None

    def run(self, items):
        self._runner.sizes.append(len(items))
        assert self._runner.gate.wait(20)
        return list(items)

    def outputs(self, results):
        return {"text": np.array([x.encode() for x in results], object)}


def served(name="toy", version=1, factor=2.0, *, report=lambda batch: None, run=None, **batching):
    """Returns a served model that runs tensors and reads files, and its runner.

    `run` computes the results of files in place of `FilesKind.run`.
    """
    runner = FakeRunner(factor)
    options = BatchingOptions(**{"batch_timeout_ms": 0.0, **batching})
    kind = runner.kind = FilesKind(runner)
    kind.run = run or kind.run
    return ServedModel(name, version, Session(runner), options, kind=kind, report=report), runner
