"""Runs SavedModels in TensorFlow."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from tools.conversion.dim_range import check_inputs, fit
from tools.conversion.pipeline import precision_of, read_pipeline, source_files
from tools.conversion.saved_model import input_specs, limit_threads, load_saved_model
from tools.errors import UserError

_ASSERTION = re.compile(r"assertion failed: \[(Expected [^\]]*)\]")
_TRACES = "<stack traces unavailable>"  # at the end of what TensorFlow says of the place


class EagerRunner:
    """Runs a SavedModel in TensorFlow; see `tools.inference.runner.Runner`.

    Args:
        functions: concrete functions by the names of their signatures.
        pipeline: content of the model's `pipeline.json`.
        files: files of the SavedModel.
        precision: precision of the computation; None: that in `pipeline`.
    """

    mode, backend = "eager", "tensorflow"

    def __init__(
        self,
        functions: Mapping[str, Callable],
        pipeline: Mapping,
        files: Sequence[Path] = (),
        *,
        precision: str | None = None,
    ):
        self.pipeline, self.files = pipeline, files
        self.precision = precision or precision_of(pipeline)
        self._functions = functions
        self.signatures = {name: input_specs(function) for name, function in functions.items()}

    def run(self, inputs, signature="serving_default"):
        """Runs a batch and returns the outputs by name."""
        specs = self.signatures[signature]
        if not fit(inputs, specs):
            check_inputs(inputs, specs)
        tensors = {name: tf.convert_to_tensor(value) for name, value in inputs.items()}
        try:
            return {k: v.numpy() for k, v in self._functions[signature](**tensors).items()}
        except tf.errors.InvalidArgumentError as error:
            raise _refusal(error.message) from error
        except tf.errors.OpError as error:
            raise RuntimeError(error.message) from error

    def expect(self, name, lengths):
        """Does nothing, because TensorFlow needs no preparation for a new shape."""
        return []


def _refusal(message: str) -> UserError:
    """Returns the error for inputs that an operator refuses: what an assertion of the model says.

    Args:
        message: message of TensorFlow.
    """
    said = _ASSERTION.search(message)
    return UserError(said[1]) if said else UserError.at_run(message.rpartition(_TRACES)[2])


def open_eager(model_dir: str | Path, threads: int | None = None) -> EagerRunner:
    """Opens a SavedModel.

    Args:
        model_dir: directory of the SavedModel.
        threads: number of threads of TensorFlow; None uses one for each core.

    Raises:
        UserError: the directory is not a SavedModel that this project exported, or it is damaged.
    """
    pipeline = read_pipeline(model_dir)
    limit_threads(threads)
    return EagerRunner(load_saved_model(model_dir), pipeline, source_files(model_dir))
