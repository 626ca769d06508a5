"""Runners: exported models as bags of signatures, whatever executes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tools.conversion.artifact import Artifact, is_artifact, open_artifact
from tools.conversion.dim_range import check_inputs, fit, pad_to
from tools.conversion.pipeline import read_pipeline
from tools.conversion.protocol import TensorSpec


class Runner(Protocol):
    """An exported model that can be run.

    Attributes:
        pipeline: what the export says of the model (`pipeline.json`).
        signatures: inputs of every signature by its name.
        mode: how it runs, for reports: "eager", or "jit" for a converted model.
        backend: what runs it: "tensorflow", or one of `tools.conversion.backends`.
        precision: what it computes in, by the names of `--quant_precision`.
        files: what it computes with.
    """

    pipeline: Mapping
    signatures: Mapping[str, tuple[TensorSpec, ...]]
    mode: str
    backend: str
    precision: str
    files: Sequence[Path]

    def run(
        self, inputs: Mapping[str, np.ndarray], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Runs a batch and returns the outputs by name.

        Raises:
            UserError: the inputs are not what the signature takes.
            RuntimeError: the runtime fails on them.
        """


class JitRunner:
    """A converted model in the runtime that it was converted for.

    Inputs that are smaller than a fixed size are padded, and their batch is cut off again; the same
    where a runtime compiles every shape anew, up to one of a few sizes inside the range.
    """

    mode = "jit"

    def __init__(self, artifact: Artifact):
        self.manifest, self.pipeline = artifact.manifest, artifact.pipeline
        self.precision = artifact.manifest["request"]["precision"]
        self.backend = artifact.manifest["request"]["backend"]
        self.files = artifact.files
        self.signatures, self._functions = artifact.inputs, artifact.functions

    def run(self, inputs, signature="serving_default"):
        """Runs a batch and returns the outputs by name."""
        specs = self.signatures[signature]
        steps = self.manifest["signatures"][signature]["steps"]
        if not steps and fit(inputs, specs):  # a decoder calls this a hundred times for a batch
            return self._functions[signature](inputs)
        check_inputs(inputs, specs, pads=True)
        padded = pad_to(inputs, specs, steps)
        outputs = self._functions[signature](padded)
        name = specs[0].name
        size = len(inputs[name])
        if len(padded[name]) == size:
            return outputs
        return {name: array[:size] for name, array in outputs.items()}


def load(model_dir: str | Path) -> Runner:
    """Opens an exported model.

    Args:
        model_dir: a SavedModel that was exported, or an artifact that was converted.

    Raises:
        UserError: the directory is neither, or damaged.
    """
    if is_artifact(model_dir):
        return JitRunner(open_artifact(model_dir))
    read_pipeline(model_dir)  # reports a bad directory before the slow import of TensorFlow
    from tools.inference.eager import open_eager

    return open_eager(model_dir)
