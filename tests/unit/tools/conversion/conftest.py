"""The small model as an ONNX file."""

import pytest

from tools.conversion.converter import convert
from tools.conversion.request import ConversionRequest


@pytest.fixture(scope="session")
def graph(native, tmp_path_factory):
    """The small model as an ONNX file, which two runtimes open."""
    folder = tmp_path_factory.mktemp("onnx") / "a"
    ranges = {"waveforms": ((1, 3), (10, 40))}
    convert(native, folder, ConversionRequest("onnxruntime", dim_range=ranges))
    return folder / "serving_default.onnx"
