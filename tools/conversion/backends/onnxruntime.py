"""ONNX Runtime: CPUs, and GPUs where a build with their providers is installed."""

import functools
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

from tools.conversion.protocol import (
    DEFAULT_EXECUTION,
    Examples,
    Execution,
    Function,
    Opened,
    Saved,
    Source,
)
from tools.conversion.request import ConversionRequest

NAME = "onnxruntime"
SMALL = "onnxruntime"
PREPARES_SHAPES = False
_TENSORRT = "TensorrtExecutionProvider"
_KNOWN = (_TENSORRT, "CUDAExecutionProvider", "CPUExecutionProvider")
PROVIDERS = tuple(name for name in _KNOWN if name in onnxruntime.get_available_providers())
NOT_APPLICABLE = (
    {}
    if _TENSORRT in PROVIDERS
    else {"minimum_segment_size": "only TensorRT takes parts of a graph"}
)
# Fusions that fold what follows a convolution into its weights, whatever the graph says.
_FOLDING = ["ConvMulFusion", "ConvAddFusion", "ConvBNFusion"]


def versions() -> dict[str, str]:
    """Versions that an artifact depends on, by package."""
    return {"onnxruntime": importlib.metadata.version("onnxruntime")}


def precisions() -> tuple[str, ...]:
    """What it can compute in; see `Backend.precisions`."""
    return ("fp32", "fp16", "int8_fp32", "int8_fp16")


def save(
    source: Source, request: ConversionRequest, folder: Path, examples: Examples | None
) -> Saved:
    """Writes an ONNX model; see `Backend.save`. Ranges are free dimensions to ONNX.

    `fp16` keeps the weights in half precision; TensorRT computes in it, too, CPUs in float32.

    Of small signatures only the weights are stored in fewer bits: their calls are bound by the way
    into the runtime, and a quantized one has more operators.
    """
    from tools.conversion.quantization import compress_weights
    from tools.conversion.rewrites.cleaning import store_in_half

    model = source.onnx
    if request.quantized and source.small:
        model = compress_weights(model)
    elif request.quantized:
        model = _quantize(model, source, request, examples)
    half = request.float_precision == "fp16" and not source.small
    if half:
        store_in_half(model)
    shapes = {spec.name: spec.shape for spec in source.specs}
    for tensor in model.graph.input:
        for dimension, size in zip(
            tensor.type.tensor_type.shape.dim, shapes[tensor.name], strict=True
        ):
            if isinstance(size, int):
                dimension.dim_value = size
    path = folder / f"{source.name}.onnx"
    path.write_bytes(model.SerializeToString())
    options = {
        "half": half,
        "stored_in_8_bits": request.quantized and source.small,
        "folds": request.opt_config is None or "conv_scale_fold" in request.opt_config,
        "minimum_segment_size": request.minimum_segment_size,
    }
    return Saved([path.name], options)


def _quantize(model, source, request, examples):
    from tools.conversion.quantization import quantize

    ignored = _ignored(model, source, request)

    def accuracy(candidate, numbers):
        function = as_function(new_session(candidate.SerializeToString(), {}))
        return examples.accuracy(source.run_with(function), numbers)

    return quantize(model, request.quantization, examples.batches, ignored, accuracy=accuracy)


def _ignored(model, source, request) -> list[str]:
    from tools.conversion.quantization import ignored_nodes

    asked = request.quantization.keep_in_float if request.quantization else ()
    names = [node.name for node in model.graph.node]
    return ignored_nodes(names, [*source.keep_in_float, *asked])


def open(path: Path, described: Mapping, execution: Execution = DEFAULT_EXECUTION) -> Opened:
    """Loads an ONNX model; see `Backend.open`."""
    # ONNX Runtime lets several threads run one session.
    return functools.partial(as_function, new_session(str(path), described, execution.threads))


def layers(path: Path) -> list[str]:
    """Lists the layers of an ONNX model; see `Backend.layers`."""
    import onnx

    return [node.name for node in _layers(onnx.load(path))]


def probe(path: Path, described: Mapping, layers: list[str]) -> Function:
    """Loads an ONNX model with inner tensors as further outputs; see `Backend.probe`."""
    import onnx

    model, wanted = onnx.load(path), set(layers)
    renamed = {node.output[0]: node.name for node in _layers(model) if node.name in wanted}
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in renamed)
    run = as_function(new_session(model.SerializeToString(), described))
    return lambda inputs: {renamed.get(name, name): x for name, x in run(inputs).items()}


def _layers(model) -> list:
    """The nodes of one output that is not the graph's."""
    outputs = {tensor.name for tensor in model.graph.output}
    nodes = (node for node in model.graph.node if len(node.output) == 1)
    return [node for node in nodes if node.output[0] not in outputs]


def new_session(
    model: str | bytes, described: Mapping, threads: int | None = None
) -> onnxruntime.InferenceSession:
    """Loads an ONNX model, a file or its content, for what there is of providers.

    Args:
        model: path or content.
        described: as of `Backend.open`; `small` and `options` count where they are there.
        threads: of one call; None: as many as there are cores.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if described.get("small", False):
        options.intra_op_num_threads = 1
    elif threads is not None:
        options.intra_op_num_threads = threads
    chosen = described.get("options", {})
    providers = []
    for name in PROVIDERS:
        settings = {}
        if name == _TENSORRT:
            settings["trt_fp16_enable"] = chosen.get("half", False)
            settings["trt_min_subgraph_size"] = chosen.get("minimum_segment_size") or 1
        providers.append((name, settings))
    if chosen.get("stored_in_8_bits", False):
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    kept = [] if chosen.get("folds", True) else _FOLDING
    return onnxruntime.InferenceSession(
        model, options, providers=providers, disabled_optimizers=kept
    )


def as_function(session: onnxruntime.InferenceSession) -> Function:
    """Gives a session the form of all backends."""
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return run
