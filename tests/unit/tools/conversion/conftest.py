"""The small model as an ONNX file."""

import pytest

from tools.conversion import backends
from tools.conversion.converter import convert
from tools.conversion.request import ConversionRequest


@pytest.fixture(scope="session")
def graph(native, tmp_path_factory):
    """The small model as an ONNX file, which two runtimes open."""
    folder = tmp_path_factory.mktemp("onnx") / "a"
    ranges = {"waveforms": ((1, 3), (10, 40))}
    convert(native, folder, ConversionRequest("onnxruntime", dim_range=ranges))
    return folder / "serving_default.onnx"


@pytest.fixture
def openvino_options(monkeypatch):
    """The options that OpenVINO compiles networks with, in order."""
    module, found = backends.get("openvino"), []

    class Core(module.openvino.Core):
        def compile_model(self, network, device, options):
            found.append(dict(options))
            return super().compile_model(network, device, options)

    monkeypatch.setattr(module.openvino, "Core", Core)
    return found


@pytest.fixture
def onnxruntime_threads(monkeypatch):
    """The numbers of threads that ONNX Runtime opens sessions with, in order."""
    module, found = backends.get("onnxruntime"), []
    session = module.onnxruntime.InferenceSession

    def start(model, options, **more):
        found.append(options.intra_op_num_threads)
        return session(model, options, **more)

    monkeypatch.setattr(module.onnxruntime, "InferenceSession", start)
    return found
