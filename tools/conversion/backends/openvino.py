"""OpenVINO for CPUs."""

import functools
import importlib.metadata
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import openvino
from openvino import opset13 as opset
from openvino.passes import ConstantFolding, Manager

from tools.conversion.protocol import (
    DEFAULT_EXECUTION,
    Examples,
    Execution,
    Function,
    Opened,
    Saved,
    Source,
    TensorSpec,
)
from tools.conversion.request import ConversionRequest

NAME = "openvino"
NOT_APPLICABLE = {"minimum_segment_size": "the CPU runs the whole graph"}
# One LSTM cell and one joint network of the digits model, 16 rows, one thread: 165 and 57 us here,
# 108 and 33 us in ONNX Runtime 1.31.
SMALL = "onnxruntime"
# The first run of a shape takes longer: 93 ms, then 21 ms (wav2vec 2.0 of width 96, 1 to 15 s of
# sound, batch 1, one core of an AMD EPYC); the digits model 28 and 20 ms.
PREPARES_SHAPES = True
# Number of prepared kernels in the cache of OpenVINO. A shape needs about ten. With the default,
# 5000, each new shape of the model above would add 11 MB.
_KERNELS = {"CPU_RUNTIME_CACHE_CAPACITY": 512}
PATIENCE = 8
_KEPT, REMEMBERED = 2, 1000  # see `_Specializing`
_LARGE = 1024  # number of values; smaller constants stay in float32
MOST_SPECIAL_BYTES = 1 << 30  # of a network; a larger one is not compiled for single shapes
_HINT = ["runtime_options", "INFERENCE_PRECISION_HINT"]


def versions() -> dict[str, str]:
    """Returns the versions on which a converted model depends, by package."""
    return {"openvino": importlib.metadata.version("openvino")}


def precisions() -> tuple[str, ...]:
    """Returns the precisions that this machine supports; see `Backend.precisions`."""
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "fp16", *(["bf16"] if "BF16" in capable else []), "int8_fp32", "int8_fp16")


def save(
    source: Source, request: ConversionRequest, folder: Path, examples: Examples | None
) -> Saved:
    """Writes a model in the format of OpenVINO (IR); see `Backend.save`.

    `fp16` stores the weights in half precision, and CPUs compute in float32. `bf16` computes in
    bfloat16.
    """
    apart: list[Path] = []
    if source.is_large:  # the network refers to these files until it is saved
        apart = source.write(folder / f"{source.name}.onnx")
        network = openvino.Core().read_model(apart[0])
    else:
        network = openvino.Core().read_model(source.onnx.SerializeToString(), b"")
    _fold(network)  # operators on constant weights become constants
    if request.quantized:
        network = _quantize(network, source, request, examples)
    network.reshape({spec.name: _partial_shape(spec) for spec in source.specs})
    network.set_rt_info("bf16" if request.precision == "bf16" else "f32", _HINT)
    _shorten(network)
    half = request.float_precision == "fp16"
    if half and request.quantized:
        _store_in_half(network)
    path = folder / f"{source.name}.xml"
    openvino.save_model(network, path, compress_to_fp16=half)
    path.write_text(re.sub(r">\s+<", "><", path.read_text()))
    for left in apart:
        left.unlink()
    return Saved([path.name, path.with_suffix(".bin").name])


def _fold(network: openvino.Model) -> None:
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(network)


def _store_in_half(network: openvino.Model) -> None:
    """Stores constants in half precision, as `compress_to_fp16` does for models in float."""
    for node in network.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        value = node.data
        if value.size < _LARGE or np.abs(value).max() > np.finfo(np.float16).max:
            continue
        targets = node.output(0).get_target_inputs()
        half = opset.convert(opset.constant(value.astype(np.float16)), "f32")
        for target in targets:
            target.replace_source_output(half.output(0))


def _shorten(network: openvino.Model) -> None:
    """Removes the names of tensors, except those of inputs and outputs."""
    ends = {*network.get_parameters(), *network.get_results()}
    for number, node in enumerate(network.get_ops()):
        if node.get_type_name() == "Constant":
            node.set_friendly_name(f"constant_{number}")
        for output in () if node in ends or _is_output(node) else node.outputs():
            output.get_tensor().set_names(set())


def _quantize(network, source, request, examples):
    from tools.conversion.quantization import ignored_nodes, quantize

    names = [node.get_friendly_name() for node in network.get_ops()]
    layers = [*source.keep_in_float, *request.quantization.keep_in_float]
    ignored = ignored_nodes(names, layers)
    ignored += _ends_of(network, ignored) + _products_of_activations(network)

    def accuracy(candidate: openvino.CompiledModel, numbers):
        return examples.accuracy(source.run_with(_function(candidate)), numbers)

    rows = {len(values) for batch in examples.batches for values in batch.values()}
    if len(rows) == 1:
        # NNCF runs parts of the network to correct biases. If rows and lengths are both free, their
        # sizes overflow (OpenVINO 2026.4, convolutions with biases). `save` sets the ranges later.
        network.reshape(
            {x.get_any_name(): [*rows, *list(x.get_partial_shape())[1:]] for x in network.inputs}
        )
    return quantize(network, request.quantization, examples.batches, ignored, accuracy=accuracy)


def _ends_of(network: openvino.Model, layers: Collection[str]) -> list[str]:
    """Returns the nodes that make an output from a node of these layers; they have its name."""
    ends = (result.input_value(0).get_node() for result in network.get_results())
    return [
        end.get_friendly_name()
        for end in ends
        if any(x.get_node().get_friendly_name() in layers for x in end.input_values())
    ]


def _products_of_activations(network: openvino.Model) -> list[str]:
    """Returns matrix products without weights, as in attention, which stay in float.

    8 bits do not make them faster (wav2vec 2.0 base, 100000 samples: 0.99 x). If all sizes are
    fixed, OpenVINO 2026.4 ignores the mask between a product in 8 bits and its softmax. To be
    removed when `test_layers_that_stay_in_float_are_there` passes without it.
    """
    return [
        node.get_friendly_name()
        for node in network.get_ops()
        if node.get_type_name() == "MatMul"
        and not any(x.get_node().get_type_name() == "Constant" for x in node.input_values())
    ]


def open(path: Path, described: Mapping, execution: Execution = DEFAULT_EXECUTION) -> Opened:
    """Loads a model of OpenVINO (IR) or an ONNX model; see `Backend.open`."""
    network, options = _read(path, described["small"], execution)
    # A network that is compiled once more has another copy of its weights in the layout of kernels.
    files = (x for x in (path, path.with_suffix(".bin")) if x.exists())
    is_light = sum(x.stat().st_size for x in files) <= MOST_SPECIAL_BYTES
    if network.is_dynamic() and not described["small"] and is_light:
        shared = _Network(network, options)
        return lambda: _Specializing(shared)
    return functools.partial(_function, openvino.Core().compile_model(network, "CPU", options))


def layers(path: Path) -> list[str]:
    """Returns the layers of a model; see `Backend.layers`."""
    nodes = openvino.Core().read_model(path).get_ordered_ops()
    return [node.get_friendly_name() for node in nodes if _is_layer(node)]


def probe(path: Path, described: Mapping, layers: list[str]) -> Function:
    """Loads a model with the outputs of layers as additional outputs; see `Backend.probe`."""
    network, options = _read(path, described["small"])
    wanted = set(layers)
    for node in network.get_ordered_ops():
        name = node.get_friendly_name()
        if name in wanted and _is_layer(node):
            network.add_outputs((name, 0))[0].get_tensor().set_names({name})
    return _function(openvino.Core().compile_model(network, "CPU", options))


def _read(
    path: Path, small: bool, execution: Execution = DEFAULT_EXECUTION
) -> tuple[openvino.Model, dict]:
    """Reads a network and returns it with the options of its compilation.

    With `LATENCY`, all cores work on one batch.
    """
    network = openvino.Core().read_model(path)
    options = {"PERFORMANCE_HINT": "LATENCY", **_KERNELS}
    options["ENABLE_HYPER_THREADING"] = execution.throughput
    if execution.threads is not None:
        # With pinned threads, several processes would all use the first cores of the machine.
        options |= {"INFERENCE_NUM_THREADS": execution.threads, "ENABLE_CPU_PINNING": False}
    own = network.has_rt_info(_HINT)
    options["INFERENCE_PRECISION_HINT"] = network.get_rt_info(_HINT).astype(str) if own else "f32"
    if small:
        options["INFERENCE_NUM_THREADS"] = 1
    return network, options


class _Network:
    """A network, compiled for all shapes and for single shapes. All sessions share it."""

    def __init__(self, network: openvino.Model, options: Mapping):
        self._network, self._options = network, options
        self.general = self._compile(network)
        self._special: WeakValueDictionary[tuple, openvino.CompiledModel] = WeakValueDictionary()
        self._lock = threading.Lock()

    def special(self, shapes: tuple) -> openvino.CompiledModel:
        """Returns the network compiled for one shape of each input."""
        # Without the lock, two sessions could compile the same shape twice, with two copies of the
        # weights.
        with self._lock:
            compiled = self._special.get(shapes)
            if compiled is None:
                fixed = self._network.clone()
                fixed.reshape({name: list(shape) for name, shape in shapes})
                compiled = self._special[shapes] = self._compile(fixed)
        return compiled

    def _compile(self, network: openvino.Model) -> openvino.CompiledModel:
        return openvino.Core().compile_model(network, "CPU", dict(self._options))


class _Specializing:
    """Runs a network with ranges, and compiles it for single shapes that occur often.

    A network that is compiled for one shape needs 10 to 25 % less time (Conformer-S, 10 s), because
    OpenVINO can fuse elementwise operators and need not infer shapes in each call. The k-th shape
    is compiled after k times `PATIENCE` calls, if it had at least half of the calls since the last
    compilation: a mixture of lengths compiles nothing. The `_KEPT` shapes that were used last are
    kept. The decision does not depend on time or on other sessions, because 8-bit results can
    differ slightly after the compilation, and a session must be reproducible.
    """

    def __init__(self, network: _Network):
        self._network, self._general = network, _function(network.general)
        self._patience, self._met = PATIENCE, Counter()
        self._special: OrderedDict[tuple, Function] = OrderedDict()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        shapes = tuple(sorted((name, array.shape) for name, array in inputs.items()))
        if shapes in self._special:
            self._special.move_to_end(shapes)
            return self._special[shapes](inputs)
        outputs = self._general(inputs)
        self._met[shapes] += 1
        often = self._met[shapes] >= self._patience
        if often and 2 * self._met[shapes] >= self._met.total():
            self._special[shapes] = _function(self._network.special(shapes))
            if len(self._special) > _KEPT:
                self._special.popitem(last=False)
            self._patience += PATIENCE
        if len(self._met) > REMEMBERED or shapes in self._special:
            self._met.clear()
        return outputs


def _is_layer(node) -> bool:
    inner = node.get_type_name() not in ("Constant", "Parameter", "Result")
    return inner and node.get_output_size() == 1 and not _is_output(node)


def _is_output(node) -> bool:
    targets = (target for output in node.outputs() for target in output.get_target_inputs())
    return any(target.get_node().get_type_name() == "Result" for target in targets)


def _function(compiled: openvino.CompiledModel) -> Function:
    request = compiled.create_infer_request()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = request.infer(dict(inputs), share_inputs=True)
        return {output.get_any_name(): array for output, array in results.items()}

    run.compiled = compiled  # `_Network` finds it as long as a function uses it
    return run


def _partial_shape(spec: TensorSpec) -> openvino.PartialShape:
    sizes = (x if isinstance(x, tuple) else (x, x) for x in spec.shape)
    return openvino.PartialShape([openvino.Dimension(low, high) for low, high in sizes])
