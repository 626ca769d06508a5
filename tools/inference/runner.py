"""Runners: run the signatures of exported models in any runtime."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from tools.conversion.artifact import Artifact, is_artifact, open_artifact
from tools.conversion.dim_range import check_inputs, fit, pad_to
from tools.conversion.pipeline import is_onnx, read_pipeline
from tools.conversion.protocol import DEFAULT_EXECUTION, Execution, Function, TensorSpec
from tools.conversion.sizes import Padding
from tools.decoding.parallel import call_in_parts

_REMEMBERED = 1000  # number of shapes


class Runner(Protocol):
    """An exported model that can be run.

    Attributes:
        pipeline: content of the model's `pipeline.json`.
        signatures: inputs of each signature, by the name of the signature.
        mode: "eager" for a SavedModel, "jit" for a converted model.
        backend: "tensorflow", or a name of `tools.conversion.backends`.
        precision: precision of the computation, as named by `--quant_precision`.
        files: files of the model.
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
        """Runs a batch.

        Args:
            inputs: arrays by name.
            signature: name of the signature.

        Returns:
            The outputs by name.

        Raises:
            UserError: the inputs do not fit the signature, or the runtime refuses their values.
            RuntimeError: the runtime fails on them.
        """

    def expect(self, name: str, lengths: Sequence[int]) -> list[int]:
        """Announces the lengths of later batches, so that they are padded to few sizes.

        Args:
            name: name of an input.
            lengths: size of its last axis in each batch.

        Returns:
            The sizes to which these lengths are padded, in descending order; empty if lengths are
            not padded.
        """


class ShapeCounts:
    """Counts the input shapes of a runner. In the first run of a shape, the runtime prepares it.

    Attributes:
        prepared: number of different shapes, over all signatures.
        first_run_seconds: total time of the first runs of these shapes.
        reused: number of the other runs.
    """

    def __init__(self):
        self.prepared, self.first_run_seconds, self.reused = 0, 0.0, 0
        self._met: OrderedDict[tuple, None] = OrderedDict()

    def run(self, function: Function, inputs: Mapping[str, np.ndarray], signature: str) -> dict:
        """Runs a function and counts the shape of its inputs.

        Args:
            function: function of the signature.
            inputs: arrays by name.
            signature: name of the signature.
        """
        key = signature, *((name, array.shape) for name, array in inputs.items())
        if key in self._met:
            self._met.move_to_end(key)
            self.reused += 1
            return function(inputs)
        started = time.perf_counter()
        outputs = function(inputs)
        self.first_run_seconds += time.perf_counter() - started
        self.prepared += 1
        self._met[key] = None
        if len(self._met) > _REMEMBERED:
            self._met.popitem(last=False)
        return outputs

    def described(self) -> dict[str, float]:
        """Returns the counts for a report."""
        return {
            "prepared": self.prepared,
            "first_run_seconds": self.first_run_seconds,
            "reused": self.reused,
        }


class JitRunner:
    """Runs a converted model in the runtime for which it was converted.

    Inputs are padded with `tools.conversion.sizes.Padding`, so that the runtime prepares few
    shapes. Rows that were added are removed from the outputs.

    Args:
        artifact: the opened model.

    Attributes:
        manifest: content of the model's `manifest.json`.
        shapes: counts of the shapes that ran.
    """

    mode = "jit"

    def __init__(self, artifact: Artifact):
        self.manifest, self.pipeline = artifact.manifest, artifact.pipeline
        self.precision = artifact.manifest["request"]["precision"]
        self.backend = artifact.manifest["request"]["backend"]
        self.files = artifact.files
        self.signatures, self._functions = artifact.inputs, artifact.functions
        self._shared = artifact.shared
        self.shapes = ShapeCounts()
        signatures = artifact.manifest["signatures"]
        self._paddable = {name for name, described in signatures.items() if described["paddable"]}
        self._small = {name for name, described in signatures.items() if described["small"]}
        self._padding = {
            name: Padding(
                artifact.inputs[name],
                ranges=described["prepares_shapes"] and name not in self._small,
                lengths=name in self._paddable,
            )
            for name, described in signatures.items()
        }

    def run(self, inputs, signature="serving_default"):
        """Runs a batch and returns the outputs by name."""
        specs = self.signatures[signature]
        if signature in self._small:  # a search calls it a hundred times for a batch
            if fit(inputs, specs):
                return self._functions[signature](inputs)
            sizes = specs[0].shape[0]
            largest = sizes if isinstance(sizes, int) else sizes[1]
            # A beam search has more hypotheses than the batch has rows.
            first = inputs.get(specs[0].name) if isinstance(inputs, Mapping) else None
            if isinstance(first, np.ndarray) and first.ndim and len(first) > largest:
                return call_in_parts(self.run, inputs, signature, largest=largest)
        padded = self.pad(inputs, signature)
        outputs = self.shapes.run(self._functions[signature], padded, signature)
        name = specs[0].name
        size = len(inputs[name])
        if len(padded[name]) == size:
            return outputs
        return {name: array[:size] for name, array in outputs.items()}

    def pad(
        self, inputs: Mapping[str, np.ndarray], signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """Pads inputs to the shapes that the runtime gets.

        Args:
            inputs: arrays by name.
            signature: name of the signature.

        Raises:
            UserError: the inputs do not fit the signature.
        """
        specs = self.signatures[signature]
        if not fit(inputs, specs):
            check_inputs(inputs, specs, pads=True, pads_lengths=signature in self._paddable)
        return pad_to(inputs, self._padding[signature].shapes(inputs))

    def expect(self, name: str, lengths: Sequence[int]) -> list[int]:
        """Fits the padded sizes to the lengths of later batches; see `Runner.expect`."""
        found = [padding.expect(name, lengths) for padding in self._padding.values()]
        return max(found, key=len, default=[])


def load(model_dir: str | Path, execution: Execution = DEFAULT_EXECUTION) -> Runner:
    """Opens an exported model.

    Args:
        model_dir: directory of a SavedModel or of a converted model; or an ONNX file.
        execution: use of threads.

    Raises:
        UserError: the directory holds no such model, or it is damaged.
    """
    if is_artifact(model_dir):
        return JitRunner(open_artifact(model_dir, execution))
    if is_onnx(model_dir):
        from tools.inference.onnx_runner import OnnxRunner

        return OnnxRunner(model_dir, execution.threads)
    read_pipeline(model_dir)  # reports a bad directory before the slow import of TensorFlow
    from tools.inference.eager import open_eager

    return open_eager(model_dir, execution.threads)
