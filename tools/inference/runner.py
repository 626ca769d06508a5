"""Runners: exported models behind one protocol, whatever executes them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from tools.conversion.artifact import Artifact, is_artifact, open_artifact
from tools.conversion.dim_range import check_inputs, fit, pad_to
from tools.conversion.quantization import Run
from tools.conversion.saved_model import (
    TensorSpec,
    input_specs,
    load_saved_model,
    read_pipeline,
    source_files,
)
from tools.inference.transducer import transcribe


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
        """Runs a batch and returns the outputs by name."""


class EagerRunner:
    """TensorFlow's own runtime on a SavedModel."""

    mode, backend, precision = "eager", "tensorflow", "fp32"

    def __init__(
        self, functions: Mapping[str, Callable], pipeline: Mapping, files: Sequence[Path] = ()
    ):
        self.pipeline, self.files = pipeline, files
        self._functions = functions
        self.signatures = {name: input_specs(function) for name, function in functions.items()}

    def run(self, inputs, signature="serving_default"):
        """Runs a batch and returns the outputs by name."""
        tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        return {k: v.numpy() for k, v in self._functions[signature](**tensors).items()}


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
        self._inputs, self._functions = artifact.inputs, artifact.functions
        self._answer = answer(self._run_converted, self.pipeline)
        self.signatures = dict(artifact.inputs)
        if self.pipeline.get("kind") == "transducer":
            self.signatures["serving_default"] = artifact.inputs["listen"]

    def run(self, inputs, signature="serving_default"):
        """Runs a batch and returns the outputs by name."""
        if signature == "serving_default":
            return self._answer(inputs)
        return self._run_converted(inputs, signature)

    def _run_converted(self, inputs, signature):
        specs = self._inputs[signature]
        steps = self.manifest["signatures"][signature]["steps"]
        if not steps and fit(inputs, specs):  # a decoder calls this a hundred times for a batch
            return self._functions[signature](inputs)
        padded = pad_to(inputs, specs, steps)
        check_inputs(padded, specs)
        outputs = self._functions[signature](padded)
        name = specs[0].name
        size = len(inputs[name])
        if len(padded[name]) == size:
            return outputs
        return {name: array[:size] for name, array in outputs.items()}


def answer(run: Run, pipeline: Mapping) -> Callable[[Mapping[str, np.ndarray]], dict]:
    """Gives `serving_default` of a model of which `run` runs the converted signatures."""
    if pipeline.get("kind") == "transducer":
        return functools.partial(transcribe, run, pipeline)
    return lambda inputs: run(inputs, "serving_default")


def load(model_dir: str | Path) -> Runner:
    """Opens an exported model.

    Args:
        model_dir: a SavedModel that was exported, or an artifact that was converted.

    Raises:
        UserError: the directory is neither, or damaged.
    """
    if is_artifact(model_dir):
        return JitRunner(open_artifact(model_dir))
    pipeline = read_pipeline(model_dir)
    return EagerRunner(load_saved_model(model_dir), pipeline, source_files(model_dir))
