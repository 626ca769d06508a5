"""Runs ONNX files, exported by this project or by others, in ONNX Runtime."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tools.conversion.backends import onnxruntime
from tools.conversion.dim_range import check_inputs, pad_to, shapes_of
from tools.conversion.onnx_file import SIGNATURE, files_of, input_specs, read_onnx
from tools.conversion.pipeline import read_pipeline
from tools.errors import UserError


class OnnxRunner:
    """Runs an ONNX file as it is, without conversion; see `tools.inference.runner.Runner`.

    Args:
        path: path of the ONNX file.
        threads: number of threads; None uses one for each core.

    Raises:
        UserError: the file cannot be read, or ONNX Runtime does not support the model.
    """

    mode, backend, precision = "jit", "onnxruntime", "fp32"

    def __init__(self, path: str | Path, threads: int | None = None):
        path = Path(path)
        model = read_onnx(path)
        self.pipeline: Mapping = read_pipeline(path)
        self.files: Sequence[Path] = files_of(path)
        self.signatures = {SIGNATURE: input_specs(model)}
        self.output_ranks = {x.name: len(x.type.tensor_type.shape.dim) for x in model.graph.output}
        try:
            session = onnxruntime.new_session(str(path), {}, threads)
        except Exception as error:  # the exceptions of ONNX Runtime have no common base class
            reason = " ".join(str(error).split())[:200]
            raise UserError.expected(
                f"an ONNX model in {path}", reason, "Export it again"
            ) from error
        self._function = onnxruntime.as_function(session)

    def run(
        self, inputs: Mapping[str, np.ndarray], signature: str = SIGNATURE
    ) -> dict[str, np.ndarray]:
        """Runs a batch. A batch that is smaller than a fixed batch size is padded.

        Args:
            inputs: arrays by input name.
            signature: must be "serving_default", the only signature of an ONNX file.

        Returns:
            The outputs by name.
        """
        specs = self.signatures[signature]
        check_inputs(inputs, specs, pads=True)
        padded = pad_to(inputs, shapes_of(specs))
        size = len(next(iter(inputs.values())))
        return {name: array[:size] for name, array in self._function(padded).items()}

    def expect(self, name: str, lengths: Sequence[int]) -> list[int]:
        """Does nothing: the file is not prepared for shapes."""
        return []
