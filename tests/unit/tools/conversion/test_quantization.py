"""What each flag of quantization does to the bundled model, read out of the artifacts."""

import copy
import functools
import json
import re

import numpy as np
import onnx
import openvino
import pytest
import tensorflow as tf
from onnx import numpy_helper

from tools.conversion import signature
from tools.conversion.converter import convert
from tools.conversion.protocol import Calibration, Examples
from tools.conversion.quantization import layer_pattern
from tools.conversion.request import ConversionRequest, Quantization
from tools.errors import UserError
from tools.inference.runner import load
from tools.speech.synthesis import synthesize

BACKENDS = ("openvino", "onnxruntime")
BOTH = ("conv_scale_fold", "type64to32_conversion")


@pytest.fixture(scope="module")
def bundled(project):
    return project / "conformer" / "pretrained" / "digits"


def spoken(*texts):
    """One batch for each text."""
    batches = []
    for number, text in enumerate(texts):
        waveform = synthesize(text, voice=f"en-us+m{number % 6 + 1}")
        lengths = np.array([len(waveform)], np.int32)
        batches.append({"waveforms": waveform[None].astype(np.float32), "lengths": lengths})
    return batches


@pytest.fixture(scope="module")
def calibration():
    batches = spoken("one two three four", "five six seven", "eight nine zero")
    return Calibration("voices", 3, True, lambda: Examples(batches))


@pytest.fixture(scope="module")
def converted(bundled, calibration, tmp_path_factory):
    """Converts with settings, each once, all from one translation to ONNX."""
    translate, models = signature.to_onnx, {}

    def translate_once(function, name):
        if name not in models:
            models[name] = translate(function, name)
        return copy.deepcopy(models[name])

    @functools.cache
    def make(backend, precision="int8_fp32", opt_config=BOTH, **settings):
        directory = tmp_path_factory.mktemp("artifact") / "converted"
        request = ConversionRequest(
            backend, precision, opt_config=opt_config, quantization=Quantization(**settings)
        )
        convert(bundled, directory, request, calibration)
        return directory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signature, "to_onnx", translate_once)
        yield make


@pytest.fixture
def default(converted, backend):
    return converted(backend)


@pytest.fixture
def floats(converted, backend):
    return converted(backend, "fp32")


@pytest.fixture
def other(converted, backend):
    """Another type and granularity, and layers in float."""
    layers = ("block_0/feedforward_1", "subsampling")
    return converted(backend, type="asym", granularity="per_axis", keep_in_float=layers)


@pytest.fixture
def least_error(converted, backend):
    """The other algorithm, and half precision for what stays in float."""
    return converted(backend, "int8_fp16", algo="eqnm")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def manifest_of(directory):
    return json.loads((directory / "manifest.json").read_text())


def network_of(directory, name="listen"):
    return openvino.Core().read_model(directory / f"{name}.xml")


def graph_of(directory, name="listen"):
    return onnx.load(directory / f"{name}.onnx").graph


def constants(graph):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def activations(backend, directory, name="listen"):
    """Of every quantized activation, by layer: range of 8 bits and the number that zero becomes."""
    found = {}
    if backend == "openvino":
        for node in network_of(directory, name).get_ops():
            if node.get_type_name() == "FakeQuantize":
                low, high = (node.input_value(i).get_node().data.item() for i in (1, 2))
                width = high - low
                found[node.get_friendly_name()] = width, round(-low / width * 255)
        return found
    graph = graph_of(directory, name)
    values = constants(graph)
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in values:
            scale, zero = (values[name].item() for name in node.input[1:3])
            found[node.name] = 255 * scale, zero
    return found


def weight_scales(backend, directory):
    """Of every matrix of 8 bits, its size and the number of its scales."""
    found = []
    if backend == "openvino":
        for node in network_of(directory).get_ops():
            if node.get_type_name() == "Constant" and node.get_element_type().to_string() == "i8":
                (convert_input,) = node.output(0).get_target_inputs()
                (product,) = convert_input.get_node().output(0).get_target_inputs()
                scale = product.get_node().input_value(1).get_node()
                found.append((node.data.size, scale.data.size))
        return found
    graph = graph_of(directory)
    values = constants(graph)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in values:
            found.append((values[node.input[0]].size, values[node.input[1]].size))
    return found


def test_weights_and_activations_become_bytes_and_the_front_end_does_not(default, backend):
    assert len(activations(backend, default)) > 50
    scales = weight_scales(backend, default)
    assert len(scales) > 40
    assert sum(size for size, _ in scales) > 1.3e6
    names = activations(backend, default)
    assert any("encoder" in name for name in names)
    assert not any("features" in name for name in names)


def heard(folder, inputs):
    """The valid frames of a model; a converted one may have padded what it hears."""
    outputs = load(folder).run(inputs, "listen")
    (frames,) = outputs["encoded_lengths"]
    assert not outputs["encoded"][:, frames:].any()
    return outputs["encoded"][:, :frames]


def test_it_answers_much_as_in_float_from_less_than_two_fifths_of_the_bytes(
    default, floats, bundled
):
    sizes = [sum(path.stat().st_size for path in folder.iterdir()) for folder in (default, floats)]
    assert sizes[0] <= 0.4 * sizes[1]
    (inputs,) = spoken("three nine one six")
    expected, exact, found = (heard(folder, inputs) for folder in (bundled, floats, default))
    np.testing.assert_allclose(exact, expected, atol=1e-3)
    error = np.abs(found - expected).mean() / np.abs(expected).mean()
    assert 0.001 < error < 0.2


def test_quantize_type_moves_the_zero_points(default, other, backend):
    assert {zero for _, zero in activations(backend, default).values()} <= {0, 127, 128}
    assert len({zero for _, zero in activations(backend, other).values()}) > 10


def test_quantize_granularity_gives_every_channel_its_scale(default, other, backend):
    whole = [count for _, count in weight_scales(backend, default)]
    channels = [count for _, count in weight_scales(backend, other)]
    assert whole.count(1) > 35
    assert channels.count(1) == 0


def test_quantize_algo_narrows_the_ranges(default, least_error, backend):
    linear, narrow = (activations(backend, folder) for folder in (default, least_error))
    ratios = np.array([narrow[name][0] / width for name, (width, _) in linear.items()])
    assert (ratios < 1.001).mean() > 0.9
    assert (ratios < 0.95).sum() >= {"openvino": 4, "onnxruntime": 5}[backend]


def test_layers_are_kept_in_float(default, other, backend):
    kept, usual = activations(backend, other), activations(backend, default)
    assert any("subsampling" in name for name in usual)
    assert not any("subsampling" in name for name in kept)
    assert len(kept) < len(usual)


def test_a_layer_that_is_not_there_is_one_line(converted, backend):
    with pytest.raises(UserError, match=r"feedforward_0.*block_99.*--keep_in_float") as caught:
        converted(backend, keep_in_float=("block_99",))
    assert "\n" not in str(caught.value)


def test_opt_config_folds_factors_into_convolutions(converted, floats, backend):
    folded, plain = floats, converted(backend, "fp32", opt_config=())
    assert manifest_of(folded)["signatures"]["listen"]["rewrites"]["batch_norm"] == 6
    assert "batch_norm" not in manifest_of(plain)["signatures"]["listen"]["rewrites"]
    if backend == "openvino":
        products = [
            [node.get_type_name() for node in network_of(folder).get_ops()].count("Multiply")
            for folder in (folded, plain)
        ]
    else:
        products = [
            [node.op_type for node in graph_of(folder).node].count("Mul")
            for folder in (folded, plain)
        ]
        assert manifest_of(folded)["signatures"]["listen"]["options"]["folds"]
        assert not manifest_of(plain)["signatures"]["listen"]["options"]["folds"]
    assert products[1] - products[0] == 6
    (inputs,) = spoken("three nine one six")
    np.testing.assert_allclose(heard(folded, inputs), heard(plain, inputs), atol=1e-3)


def index_types(backend, directory):
    """Types of the constants that pick elements."""
    if backend == "openvino":
        return {
            node.input_value(1).get_node().get_element_type().to_string()
            for node in network_of(directory).get_ops()
            if node.get_type_name() in ("Gather", "Slice")
            and node.input_value(1).get_node().get_type_name() == "Constant"
        }
    graph = graph_of(directory)
    values = constants(graph)
    return {
        {"int64": "i64", "int32": "i32"}[str(values[node.input[1]].dtype)]
        for node in graph.node
        if node.op_type in ("Gather", "Slice") and node.input[1] in values
    }


def test_opt_config_shortens_indices(converted, floats, backend):
    long = index_types(backend, converted(backend, "fp32", opt_config=()))
    short = index_types(backend, floats)
    assert "i64" in long
    assert "i32" in short
    if backend == "onnxruntime":
        assert short == {"i32"}


def test_half_precision_halves_what_8_bits_leave(default, least_error, backend):
    suffix = {"openvino": "bin", "onnxruntime": "onnx"}[backend]
    half, whole = ((x / f"listen.{suffix}").stat().st_size for x in (least_error, default))
    assert half < whole - 1000


def test_small_parts_store_bytes_and_compute_in_float(converted, bundled):
    directory = converted("openvino")
    stored = [tensor.data_type for tensor in graph_of(directory, "predict").initializer]
    assert onnx.TensorProto.INT8 in stored
    inputs = {"tokens": np.array([[3], [5]], np.int32), "states": np.zeros((2, 2, 128), "f")}
    expected = load(bundled).run(inputs, "predict")["predicted"]
    found = load(directory).run(inputs, "predict")["predicted"]
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A model of two layers, of which the second cannot stand 8 bits for all of its weights."""
    directory = tmp_path_factory.mktemp("export") / "towers"
    rng = np.random.default_rng(0)
    module = tf.Module()
    robust, fragile = rng.standard_normal((2, 16, 16)).astype(np.float32)
    fragile[:, 0] *= 1e4
    module.weights = [tf.Variable(robust), tf.Variable(fragile)]
    specification = tf.TensorSpec([None, 16], tf.float32, "images")

    @tf.function(input_signature=[specification])
    def serving_default(images):
        with tf.name_scope("robust"):
            x = tf.nn.relu(tf.matmul(images, module.weights[0]))
        with tf.name_scope("fragile"):
            return {"logits": tf.matmul(x, module.weights[1])[:, 1:]}

    signatures = {"serving_default": serving_default.get_concrete_function()}
    tf.saved_model.save(module, str(directory), signatures)
    (directory / "assets").mkdir(exist_ok=True)
    pipeline = {"family": "toy", "convert": {"serving_default": {"dim_range": {}}}}
    (directory / "assets" / "pipeline.json").write_text(json.dumps(pipeline))
    return directory


def test_layers_go_back_to_float_until_the_accuracy_holds(towers, tmp_path, backend):
    rng = np.random.default_rng(1)
    batches = [{"images": rng.standard_normal((1, 16)).astype(np.float32)} for _ in range(8)]
    expected = [load(towers).run(batch)["logits"] for batch in batches]

    def accuracy(run, numbers):
        found = [run(batches[n], "serving_default")["logits"] for n in numbers]
        errors = [np.abs(x - expected[n]).mean() for x, n in zip(found, numbers, strict=True)]
        return 1.0 - float(np.mean(errors)) / np.abs(expected).mean()

    calibration = Calibration("noise", 8, True, lambda: Examples(batches, accuracy))
    judged, quantized = {}, {}
    for drop in (None, 0.1):
        quantization = Quantization(max_accuracy_drop=drop)
        request = ConversionRequest(backend, "int8_fp32", quantization=quantization)
        convert(towers, tmp_path / str(drop), request, calibration)
        judged[drop] = accuracy(load(tmp_path / str(drop)).run, range(8))
        network = activations(backend, tmp_path / str(drop), "serving_default")
        quantized[drop] = {name.split("/")[0] for name in network}
    assert judged[None] < 0.5
    assert judged[0.1] > 0.9
    assert len(quantized[0.1]) < len(quantized[None])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algo": "best"}, "--quantize_algo linear or eqnm"),
        ({"type": "both"}, "--quantize_type symm or asym"),
        ({"granularity": "per_row"}, "--quantize_granularity per_tensor or per_axis"),
    ],
)
def test_settings_that_are_none_are_one_line(converted, settings, message):
    with pytest.raises(UserError, match=message):
        converted("openvino", **settings)


def test_other_data_convert_again_where_they_were_asked_for(bundled, tmp_path, monkeypatch):
    read = []

    def calibration(name, required):
        def examples():
            read.append(name)
            raise UserError(name)

        return Calibration(name, 2, required, examples)

    request = ConversionRequest("openvino", "int8_fp32")
    with pytest.raises(UserError, match=r"^a$"):
        convert(bundled, tmp_path / "a", request, calibration("a", True))
    assert read == ["a"]
    # A float model needs none.
    convert(bundled, tmp_path / "a", ConversionRequest("openvino"), calibration("b", True))
    assert read == ["a"]


def test_the_pattern_of_a_layer():
    pattern = layer_pattern("block_1/attention")
    for name in ("encoder_1/block_1_1/attention_1/MatMul", "block_1/attention"):
        assert re.fullmatch(pattern, name)
    for name in ("encoder_1/block_11_1/attention_1/MatMul", "block_1/attentive/MatMul"):
        assert not re.fullmatch(pattern, name)
