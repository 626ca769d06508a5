"""Models whose weights are kept apart from their graph: files, runtimes and values."""

import keras
import numpy as np
import onnx
import psutil
import pytest
import tensorflow as tf
from tf2onnx import tf_loader

from tests.support.errors import refused
from tests.support.quantized import weight_scales
from tools.conversion import backends, large_weights
from tools.conversion.backends import onnxruntime
from tools.conversion.converter import convert
from tools.conversion.onnx_export import write_function
from tools.conversion.protocol import Calibration, Examples
from tools.conversion.request import ConversionRequest, Quantization
from tools.conversion.saved_model import write_saved_model
from tools.conversion.signature import translated
from tools.inference.runner import load

BINS, WIDTH = 5, 8


class Module:
    """Two matrix products with small weights, and calls of another function."""

    def __init__(self):
        rng = np.random.default_rng(0)
        shapes = {"first": (BINS, WIDTH), "second": (WIDTH, WIDTH)}
        shapes |= {f"{name}_bias": (WIDTH,) for name in [*shapes]}
        self.kernels = {
            k: keras.Variable(rng.normal(size=x).astype("f4")) for k, x in shapes.items()
        }

        @tf.function
        def product(x, name):
            with tf.name_scope(name):
                product = tf.linalg.matmul(x, self.kernels[name].value)
                return tf.nn.relu(product + self.kernels[f"{name}_bias"].value)

        self.product = product

    def listen(self, features):
        first = self.product(features, "first")
        return {"b": self.product(first, "second"), "a": tf.reduce_sum(first, axis=-1)}


@pytest.fixture
def module(monkeypatch):
    monkeypatch.setattr(large_weights, "MOST_BYTES", 0)
    monkeypatch.setattr(large_weights, "LEAST_VALUES", BINS * WIDTH)
    return Module()


def function_of(module):
    spec = [tf.TensorSpec([None, None, BINS], tf.float32, "features")]
    return tf.function(module.listen, input_signature=spec, autograph=False)


def check(run, module, rng):
    features = rng.normal(size=(2, 3, BINS)).astype("float32")
    expected = module.listen(tf.constant(features))
    found = run({"features": features})
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5)


def test_a_file_with_its_weights_beside_it(module, tmp_path, rng):
    path = tmp_path / "m.onnx"
    write_function(function_of(module), path, outputs=("b", "a"), metadata={"key": 7})
    bare = onnx.load(path, load_external_data=False)
    assert [x.name for x in bare.graph.input] == ["features"]
    assert [x.name for x in bare.graph.output] == ["b", "a"]
    assert {x.key: x.value for x in bare.metadata_props} == {"key": "7"}
    apart = [x for x in bare.graph.initializer if x.data_location == onnx.TensorProto.EXTERNAL]
    assert sorted(tuple(x.dims) for x in apart) == [(BINS, WIDTH), (WIDTH, WIDTH)]
    assert (tmp_path / "m.onnx.data").stat().st_size >= 4 * WIDTH * (BINS + WIDTH)
    session = onnxruntime.new_session(str(path), {})
    check(onnxruntime.as_function(session), module, rng)


@pytest.fixture
def native(module, tmp_path):
    """Returns the SavedModel of the module."""
    ranges = {"listen": {"dim_range": {"features": [[1, 9], [BINS, BINS]]}}}
    pipeline = {"family": "toy", "convert": ranges}
    functions = {"listen": function_of(module), "serving_default": function_of(module)}
    write_saved_model(tmp_path / "native", functions, module.kernels.values(), pipeline)
    return tmp_path / "native"


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_conversions_of_large_models_have_the_same_outputs(module, native, backend, tmp_path, rng):
    place = tmp_path / "converted"
    manifest = convert(native, place, ConversionRequest(backend=backend))
    assert not list(place.glob("*.onnx*")) or backend == "onnxruntime"
    runner = load(place)
    check(lambda inputs: runner.run(inputs, "listen"), module, rng)
    described, runtime = manifest["signatures"]["listen"], backends.get(backend)
    path = place / described["files"][0]
    (layer,) = (x for x in runtime.layers(path) if x.endswith("first/Relu"))
    features = rng.normal(size=(2, 3, BINS)).astype("float32")
    found = runtime.probe(path, described, [layer])({"features": features})[layer]
    np.testing.assert_allclose(found, module.product(tf.constant(features), "first"), atol=1e-5)


def test_large_weights_in_8_bits(module, native, tmp_path, rng):
    batches = [{"features": rng.normal(size=(2, 3, BINS)).astype("f4")} for _ in range(4)]
    calibration = Calibration("made up", 4, True, lambda: Examples(batches))
    how = {"precision": "int8_fp32", "quantization": Quantization()}
    place = tmp_path / "converted"
    convert(native, place, ConversionRequest(backend="openvino", **how), calibration)
    assert {x.suffix for x in place.rglob("*") if x.is_file()} == {".xml", ".bin", ".json"}
    assert sorted(size for size, _ in weight_scales("openvino", place, "listen")) == [
        BINS * WIDTH,
        WIDTH * WIDTH,
    ]
    found = load(place).run(batches[0], "listen")
    for name, value in module.listen(tf.constant(batches[0]["features"])).items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name], value, atol=0.05 * scale)
    with refused("--backend=openvino"):
        convert(
            native, tmp_path / "other", ConversionRequest(backend="onnxruntime", **how), calibration
        )
    assert not (tmp_path / "other").exists()


def test_an_operator_that_changes_a_weight_is_an_error(monkeypatch):
    monkeypatch.setattr(large_weights, "LEAST_VALUES", 1)
    counter = tf.Variable(tf.zeros([2, 2]))

    @tf.function(input_signature=[tf.TensorSpec([2, 2], tf.float32, "x")], autograph=False)
    def count(x):
        return {"y": counter.assign_add(x)}

    with pytest.raises(ValueError, match="uses a variable"):
        large_weights.without_large_weights(count.get_concrete_function())


def test_weights_that_are_kept_apart_only_while_a_graph_is_translated(
    module, native, tmp_path, rng, monkeypatch
):
    monkeypatch.setattr(large_weights, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(large_weights, "APART_BYTES", 0)
    place = tmp_path / "converted"
    convert(native, place, ConversionRequest(backend="onnxruntime"))
    assert {x.suffix for x in place.iterdir()} == {".onnx", ".json"}
    graph = onnx.load(place / "listen.onnx").graph
    assert [x.name for x in graph.input] == ["features"]
    assert sum(tuple(x.dims) == (BINS, WIDTH) for x in graph.initializer) == 1
    runner = load(place)
    check(lambda inputs: runner.run(inputs, "listen"), module, rng)


def test_weights_that_are_kept_apart_take_no_memory_in_the_optimizer(monkeypatch):
    """TensorFlow's optimizer of graphs makes a tensor for each input of known shape."""
    monkeypatch.setattr(large_weights, "APART_BYTES", 0)
    monkeypatch.setattr(large_weights, "MOST_BYTES", 0)
    kernel = tf.Variable(tf.zeros([BINS, 1 << 23]))
    optimize, grown = tf_loader.tf_optimize_grappler, []

    def measured(*arguments):
        before = psutil.Process().memory_info().rss
        result = optimize(*arguments)
        grown.append(psutil.Process().memory_info().rss - before)
        return result

    monkeypatch.setattr(tf_loader, "tf_optimize_grappler", measured)
    spec = [tf.TensorSpec([None, BINS], tf.float32, "features")]
    function = tf.function(lambda features: {"a": features @ kernel}, input_signature=spec)
    model, weights = translated(function.get_concrete_function(), "toy")
    (name,) = weights
    (shape,) = (x.type.tensor_type.shape for x in model.graph.input if x.name == name)
    assert [x.dim_value for x in shape.dim] == [BINS, 1 << 23]
    (growth,) = grown
    assert growth < kernel.shape.num_elements()  # a quarter of its bytes
