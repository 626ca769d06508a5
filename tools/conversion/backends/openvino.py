"""OpenVINO on CPUs: the fastest runtime for the large parts of a model."""

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
NOT_APPLICABLE = {"minimum_segment_size": "the CPU takes the whole graph"}
# One LSTM cell and one joint network of the digits model, 16 rows, one thread: 165 and 57 us here,
# 108 and 33 us in ONNX Runtime 1.31.
SMALL = "onnxruntime"
# The first run of a shape takes longer: 93 ms, then 21 ms (wav2vec 2.0 of width 96, 1 to 15 s of
# sound, batch 1, one core of an AMD EPYC); the digits model 28 and 20 ms.
PREPARES_SHAPES = True
# Prepared kernels that are kept. One shape has about ten: without a limit each new shape of the
# model above adds 11 MB. OpenVINO's own default is 5000.
_KERNELS = {"CPU_RUNTIME_CACHE_CAPACITY": 512}
PATIENCE = 8
_KEPT, REMEMBERED = 2, 1000  # see `_Specializing`
_LARGE = 1024  # values; a smaller constant is not worth a conversion
_HINT = ["runtime_options", "INFERENCE_PRECISION_HINT"]


def versions() -> dict[str, str]:
    """Versions that an artifact depends on, by package."""
    return {"openvino": importlib.metadata.version("openvino")}


def precisions() -> tuple[str, ...]:
    """What this machine can compute in; see `Backend.precisions`."""
    capable = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("fp32", "fp16", *(["bf16"] if "BF16" in capable else []), "int8_fp32", "int8_fp16")


def save(
    source: Source, request: ConversionRequest, folder: Path, examples: Examples | None
) -> Saved:
    """Writes an IR; see `Backend.save`.

    `fp16` keeps the weights in half precision and computes in what the device is best at; on CPUs
    that is float32, or `bf16` where that is asked for and there is hardware for it.
    """
    network = openvino.Core().read_model(source.onnx.SerializeToString(), b"")
    _fold(network)  # so that weights are found behind what is done to constants
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
    return Saved([path.name, path.with_suffix(".bin").name])


def _fold(network: openvino.Model) -> None:
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(network)


def _store_in_half(network: openvino.Model) -> None:
    """What `compress_to_fp16` does to other models; it leaves quantized ones as they are."""
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
    """Leaves names to layers and to the ends of the graph."""
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
        # Where rows and lengths are both free, the CPU's sizes of the parts that NNCF runs to
        # correct biases overflow (OpenVINO 2026.4, convolutions with biases). `save` frees them.
        network.reshape(
            {x.get_any_name(): [*rows, *list(x.get_partial_shape())[1:]] for x in network.inputs}
        )
    return quantize(network, request.quantization, examples.batches, ignored, accuracy=accuracy)


def _ends_of(network: openvino.Model, layers: Collection[str]) -> list[str]:
    """What makes an output of these layers' constants; it is called like the output."""
    ends = (result.input_value(0).get_node() for result in network.get_results())
    return [
        end.get_friendly_name()
        for end in ends
        if any(x.get_node().get_friendly_name() in layers for x in end.input_values())
    ]


def _products_of_activations(network: openvino.Model) -> list[str]:
    """Products without weights, as in attention.

    8 bits make them no faster (wav2vec 2.0 base, 100000 samples: 0.99 x), and where all sizes are
    fixed, OpenVINO 2026.4 reads past the mask between a product in 8 bits and its softmax. To go
    when `test_layers_that_stay_in_float_are_there` passes without it.
    """
    return [
        node.get_friendly_name()
        for node in network.get_ops()
        if node.get_type_name() == "MatMul"
        and not any(x.get_node().get_type_name() == "Constant" for x in node.input_values())
    ]


def open(path: Path, described: Mapping, execution: Execution = DEFAULT_EXECUTION) -> Opened:
    """Loads an IR, or an ONNX model of whatever origin; see `Backend.open`."""
    network, options = _read(path, described["small"], execution)
    if network.is_dynamic() and not described["small"]:
        shared = _Network(network, options)
        return lambda: _Specializing(shared)
    return functools.partial(_function, openvino.Core().compile_model(network, "CPU", options))


def layers(path: Path) -> list[str]:
    """Lists the layers of an IR; see `Backend.layers`."""
    nodes = openvino.Core().read_model(path).get_ordered_ops()
    return [node.get_friendly_name() for node in nodes if _is_layer(node)]


def probe(path: Path, described: Mapping, layers: list[str]) -> Function:
    """Loads an IR with inner tensors as further outputs; see `Backend.probe`."""
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
    """A network, and what it is to be compiled with.

    One batch runs at a time, so that all cores work on it (`LATENCY`).
    """
    network = openvino.Core().read_model(path)
    options = {"PERFORMANCE_HINT": "LATENCY", **_KERNELS}
    options["ENABLE_HYPER_THREADING"] = execution.throughput
    if execution.threads is not None:
        # Several processes may share the machine: pinned, all would use the same first cores.
        options |= {"INFERENCE_NUM_THREADS": execution.threads, "ENABLE_CPU_PINNING": False}
    own = network.has_rt_info(_HINT)
    options["INFERENCE_PRECISION_HINT"] = network.get_rt_info(_HINT).astype(str) if own else "f32"
    if small:
        options["INFERENCE_NUM_THREADS"] = 1
    return network, options


class _Network:
    """A network with its compiled forms: for all shapes, and for single ones that are in use."""

    def __init__(self, network: openvino.Model, options: Mapping):
        self._network, self._options = network, options
        self.general = self._compile(network)
        self._special: WeakValueDictionary[tuple, openvino.CompiledModel] = WeakValueDictionary()
        self._lock = threading.Lock()

    def special(self, shapes: tuple) -> openvino.CompiledModel:
        """Compiles the network for one shape of each input, unless a session has that."""
        # Two sessions that meet a shape at once must not compile it twice, each with its weights.
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
    """A network of ranges that compiles a shape that it meets often once more, for that alone.

    Sizes that are not known keep OpenVINO from joining operators on single values and cost a look
    at every operator in every call: a tenth to a quarter of the time (Conformer-S, 10 s). The k-th
    shape is compiled when it was met k times `PATIENCE` and in at least half of the calls since
    the last one was compiled, so that a mixture of lengths compiles nothing; the last `_KEPT` stay.
    It is left neither to the clock nor to other sessions: what computes in 8 bits rounds otherwise
    when compiled for a shape, and a session is to give the same answers every time.
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

    run.compiled = compiled  # others may share it while this function is in use
    return run


def _partial_shape(spec: TensorSpec) -> openvino.PartialShape:
    sizes = (x if isinstance(x, tuple) else (x, x) for x in spec.shape)
    return openvino.PartialShape([openvino.Dimension(low, high) for low, high in sizes])
