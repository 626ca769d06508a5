"""What each flag of quantization does to a model, read out of the artifacts."""

import functools
import json
import re
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf

from tests.support.errors import refused
from tests.support.quantized import (
    BACKENDS,
    activations,
    constants,
    graph_of,
    network_of,
    weight_scales,
)
from tests.support.saved_models import save_model
from tools.conversion.converter import convert
from tools.conversion.protocol import Calibration, Examples
from tools.conversion.quantization import layer_pattern, quantize
from tools.conversion.request import OPT_CONFIG, ConversionRequest, Quantization
from tools.errors import UserError
from tools.inference.runner import load

WIDTH, NUM_BLOCKS, NAME = 48, 3, "serving_default"
PIPELINE = {
    "family": "toy",
    "convert": {
        NAME: {"dim_range": {"frames": [[10, 2000]]}, "keep_in_float": ["features"]},
    },
}


class Tower(tf.Module):
    """Named layers of the kinds that a Conformer has."""

    def __init__(self):
        rng = np.random.default_rng(0)

        def kernels(count, *shape):
            values = rng.standard_normal((count, *shape)) / np.sqrt(np.prod(shape[:-1]))
            return [tf.Variable(value.astype(np.float32)) for value in values]

        self.front, self.subsampling = kernels(2, WIDTH, WIDTH)
        self.head = kernels(1, WIDTH, 5)[0]
        self.products = kernels(2 * NUM_BLOCKS, WIDTH, WIDTH)
        self.depthwise = kernels(NUM_BLOCKS, 3, 1, WIDTH, 1)
        self.factors = rng.uniform(0.5, 1.5, (NUM_BLOCKS, 2, WIDTH)).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, WIDTH], tf.float32, "frames")])
    def answer(self, frames):
        with tf.name_scope("features"):
            x = tf.linalg.matmul(frames, self.front)
        with tf.name_scope("subsampling"):
            picked = tf.gather(x[:, 1:], tf.range(WIDTH, dtype=tf.int64)[::-1], axis=2)
            x = tf.nn.relu(tf.linalg.matmul(picked, self.subsampling))
        for number in range(NUM_BLOCKS):
            with tf.name_scope(f"encoder/block_{number}/feedforward"):
                y = tf.nn.silu(tf.linalg.matmul(x, self.products[2 * number]))
                x += tf.linalg.matmul(y, self.products[2 * number + 1])
            with tf.name_scope(f"encoder/block_{number}/convolution"):
                y = tf.nn.depthwise_conv2d(x[:, :, None], self.depthwise[number], [1] * 4, "SAME")
                x += tf.nn.silu(
                    tf.squeeze(y, 2) * self.factors[number, 0] + self.factors[number, 1]
                )
        with tf.name_scope("head"):
            return {"logits": tf.linalg.matmul(x, self.head)}


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    tower = Tower()
    return save_model(
        tmp_path_factory.mktemp("export") / "tower", tower, {NAME: tower.answer}, PIPELINE
    )


def frames(seed, num_frames=30):
    """Noise with few large values."""
    values = np.random.default_rng(seed).standard_normal((1, num_frames, WIDTH))
    return {"frames": (values**3).astype(np.float32)}


@pytest.fixture(scope="module")
def converted(native, tmp_path_factory):
    """Converts with settings, each once."""
    calibration = Calibration("noise", 2, True, lambda: Examples([frames(1, 1500), frames(2, 900)]))

    @functools.cache
    def make(backend, precision="int8_fp32", opt_config=OPT_CONFIG, **settings):
        directory = tmp_path_factory.mktemp("artifact") / "converted"
        request = ConversionRequest(
            backend, precision, opt_config=opt_config, quantization=Quantization(**settings)
        )
        convert(native, directory, request, calibration)
        return directory

    return make


@pytest.fixture
def default(converted, backend):
    return converted(backend)


@pytest.fixture
def floats(converted, backend):
    return converted(backend, "fp32")


@pytest.fixture
def other(converted, backend):
    """Another type and granularity, and layers in float."""
    layers = ("block_0/feedforward", "subsampling")
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


def test_every_layer_is_quantized_but_those_that_the_model_keeps(default, backend):
    names = activations(backend, default, NAME)
    for layer in ("subsampling", "block_0/feedforward", "block_2/convolution"):
        assert any(layer in name for name in names), layer
    assert not any("features" in name for name in names)
    sizes = [size for size, _ in weight_scales(backend, default, NAME)]
    assert sorted(sizes)[-2 * NUM_BLOCKS - 1 :] == [WIDTH * WIDTH] * (2 * NUM_BLOCKS + 1)


def test_it_answers_much_as_in_float(default, floats, native):
    expected, exact, found = (load(x).run(frames(3))["logits"] for x in (native, floats, default))
    np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-4)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 0.001 < error < 0.2


def test_quantize_type_moves_the_zero_points(default, other, backend):
    assert {zero for _, zero in activations(backend, default, NAME).values()} <= {0, 127, 128}
    assert len({zero for _, zero in activations(backend, other, NAME).values()}) > 4


def test_quantize_granularity_gives_every_channel_its_scale(default, other, backend):
    whole = [count for _, count in weight_scales(backend, default, NAME)]
    channels = [count for _, count in weight_scales(backend, other, NAME)]
    assert set(whole) == {1}
    assert 1 not in channels
    assert max(channels) == WIDTH


def test_quantize_algo_narrows_the_ranges(default, least_error, backend):
    linear, narrow = (activations(backend, folder, NAME) for folder in (default, least_error))
    ratios = np.array([narrow[name][0] / width for name, (width, _) in linear.items()])
    assert (ratios < 1.001).mean() > 0.9
    assert (ratios < 0.995).mean() > 0.5


def test_layers_are_kept_in_float(default, other, backend):
    matrices = [
        sum(size == WIDTH * WIDTH for size, _ in weight_scales(backend, folder, NAME))
        for folder in (default, other)
    ]
    assert matrices == [2 * NUM_BLOCKS + 1, 2 * NUM_BLOCKS + 1 - 3]
    kept, usual = activations(backend, other, NAME), activations(backend, default, NAME)
    assert len(kept) < len(usual)
    assert any("block_1/feedforward" in name for name in kept)


def test_a_layer_that_is_not_there_is_one_line(converted, backend):
    with refused(match=r"feedforward.*block_99.*--keep_in_float"):
        converted(backend, keep_in_float=("block_99",))


def test_opt_config_folds_factors_into_convolutions(converted, floats, backend):
    folded, plain = floats, converted(backend, "fp32", opt_config=())
    assert manifest_of(folded)["signatures"][NAME]["rewrites"]["batch_norm"] == NUM_BLOCKS
    assert "batch_norm" not in manifest_of(plain)["signatures"][NAME]["rewrites"]
    if backend == "openvino":
        products = [
            [node.get_type_name() for node in network_of(folder, NAME).get_ops()].count("Multiply")
            for folder in (folded, plain)
        ]
    else:
        products = [
            [node.op_type for node in graph_of(folder, NAME).node].count("Mul")
            for folder in (folded, plain)
        ]
        assert manifest_of(folded)["signatures"][NAME]["options"]["folds"]
        assert not manifest_of(plain)["signatures"][NAME]["options"]["folds"]
    assert products[1] - products[0] == NUM_BLOCKS
    answers = [load(folder).run(frames(3))["logits"] for folder in (folded, plain)]
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-4)


def index_types(backend, directory):
    """Types of the constants that pick elements."""
    if backend == "openvino":
        return {
            node.input_value(1).get_node().get_element_type().to_string()
            for node in network_of(directory, NAME).get_ops()
            if node.get_type_name() in ("Gather", "Slice")
            and node.input_value(1).get_node().get_type_name() == "Constant"
        }
    graph = graph_of(directory, NAME)
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
    half, whole = ((x / f"{NAME}.{suffix}").stat().st_size for x in (least_error, default))
    assert half < whole - 1000


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

    pipeline = {"family": "toy", "convert": {NAME: {"dim_range": {}}}}
    return save_model(directory, module, {NAME: serving_default}, pipeline)


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
    with refused(message):
        converted("openvino", **settings)


def test_other_data_convert_again_where_they_were_asked_for(native, tmp_path, monkeypatch):
    read = []

    def calibration(name, required):
        def examples():
            read.append(name)
            raise UserError(name)

        return Calibration(name, 2, required, examples)

    request = ConversionRequest("openvino", "int8_fp32")
    with pytest.raises(UserError, match=r"^a$"):
        convert(native, tmp_path / "a", request, calibration("a", True))
    assert read == ["a"]
    # A float model needs none.
    convert(native, tmp_path / "a", ConversionRequest("openvino"), calibration("b", True))
    assert read == ["a"]


def test_the_pattern_of_a_layer():
    pattern = layer_pattern("block_1/attention")
    for name in ("encoder_1/block_1_1/attention_1/MatMul", "block_1/attention"):
        assert re.fullmatch(pattern, name)
    for name in ("encoder_1/block_11_1/attention_1/MatMul", "block_1/attentive/MatMul"):
        assert not re.fullmatch(pattern, name)


def test_other_examples_quantize_again_where_they_were_asked_for(towers, tmp_path):
    batches = [{"images": np.ones((1, 16), np.float32)}] * 2
    request = ConversionRequest("onnxruntime", "int8_fp32")

    def reused(*described):
        calibration = Calibration(*described, lambda: Examples(batches))
        return convert(towers, tmp_path / "a", request, calibration)["reused"]

    assert not reused("a", 2, True)
    assert reused("a", 2, True)
    assert not reused("b", 2, True)
    assert not reused("b", 3, True)
    assert reused("c", 1, False)
    assert convert(towers, tmp_path / "a", request)["reused"]
    assert manifest_of(tmp_path / "a")["calibration"] == {"data_dir": "b", "num_samples": 3}


def test_a_small_signature_stores_bytes_and_computes_in_float(towers, tmp_path, rng):
    source = shutil.copytree(towers, tmp_path / "source")
    pipeline = json.loads((source / "assets" / "pipeline.json").read_text())
    pipeline["convert"][NAME]["small"] = True
    (source / "assets" / "pipeline.json").write_text(json.dumps(pipeline))
    calibration = Calibration("none", 0, True, lambda: Examples([]))
    request = ConversionRequest("onnxruntime", "int8_fp32")
    convert(source, tmp_path / "a", request, calibration)
    assert not activations("onnxruntime", tmp_path / "a", NAME)
    assert len(weight_scales("onnxruntime", tmp_path / "a", NAME)) == 2
    inputs = {"images": rng.standard_normal((2, 16)).astype(np.float32)}
    expected, found = (load(x).run(inputs)["logits"] for x in (towers, tmp_path / "a"))
    assert 0 < np.linalg.norm(found - expected) < 0.05 * np.linalg.norm(expected)


def test_the_limit_of_the_drop_is_absolute_and_nothing_is_smoothed(converted, monkeypatch):
    converted("onnxruntime")
    nncf, seen = sys.modules["nncf"], {}  # `import nncf` fails before it was patched once
    for name in ("quantize", "quantize_with_accuracy_control", "compress_weights"):

        def called(model, *arguments, name=name, **options):
            seen[name] = options
            return f"{model}, {name}"

        monkeypatch.setattr(nncf, name, called)
    batches = [{"x": np.ones(1)}, {"x": np.zeros(1)}]

    def accuracy(model, numbers):
        return {("candidate", 0): 0.5}[model, *numbers]

    asked = Quantization(max_accuracy_drop=0.25)
    found = quantize("model", asked, batches, ["a"], accuracy=accuracy)
    assert found == "model, quantize_with_accuracy_control"
    options = seen["quantize_with_accuracy_control"]
    assert (options["max_drop"], options["drop_type"]) == (0.25, nncf.DropType.ABSOLUTE)
    assert options["validation_fn"]("candidate", iter([0])) == (0.5, None)
    assert options["subset_size"] == 2
    alphas = options["advanced_quantization_parameters"].smooth_quant_alphas
    assert (alphas.matmul, alphas.convolution) == (-1, -1)
    assert quantize("model", Quantization(), batches, ["a"]) == "model, quantize, compress_weights"
    assert seen["quantize"]["advanced_parameters"].smooth_quant_alphas.matmul > 0
    for options in seen.values():
        assert options["ignored_scope"].names == ["a"]
