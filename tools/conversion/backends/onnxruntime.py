"""ONNX Runtime for CPUs, and for GPUs if its GPU build is installed."""

import functools
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

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
from tools.errors import UserError

NAME = "onnxruntime"
SMALL = "onnxruntime"
PREPARES_SHAPES = False
_TENSORRT = "TensorrtExecutionProvider"
_KNOWN = (_TENSORRT, "CUDAExecutionProvider", "CPUExecutionProvider")
PROVIDERS = tuple(name for name in _KNOWN if name in onnxruntime.get_available_providers())
NOT_APPLICABLE = (
    {}
    if _TENSORRT in PROVIDERS
    else {"minimum_segment_size": "only TensorRT takes over parts of a graph"}
)
# Option of a session.
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
# Fusions of ONNX Runtime that fold factors and offsets into the weights of a convolution.
_FOLDING = ["ConvMulFusion", "ConvAddFusion", "ConvBNFusion"]


def versions() -> dict[str, str]:
    """Returns the versions on which a converted model depends, by package."""
    return {"onnxruntime": importlib.metadata.version("onnxruntime")}


def precisions() -> tuple[str, ...]:
    """Returns the supported precisions; see `Backend.precisions`."""
    return ("fp32", "fp16", "int8_fp32", "int8_fp16")


def save(
    source: Source, request: ConversionRequest, folder: Path, examples: Examples | None
) -> Saved:
    """Writes an ONNX model; see `Backend.save`. Ranges become free dimensions.

    `fp16` stores the weights in half precision. TensorRT also computes in half precision, CPUs
    compute in float32.

    In small signatures, 8 bits are used only to store the weights: calls of small signatures are
    dominated by the overhead of a call, and quantization adds operators.
    """
    from tools.conversion.quantization import compress_weights
    from tools.conversion.rewrites.cleaning import store_in_half
    from tools.conversion.signature import set_sizes

    shapes = {spec.name: spec.shape for spec in source.specs}
    path = folder / f"{source.name}.onnx"
    half = request.float_precision == "fp16" and not source.small
    if source.is_large and not half and not request.quantized:
        return Saved([x.name for x in source.write(path, shapes)], _options(request, source, half))
    model = source.onnx
    if request.quantized and source.small:
        model = compress_weights(model)
    elif request.quantized:
        model = _quantize(model, source, request, examples)
    if half:
        store_in_half(model)
    set_sizes(model, shapes)
    path.write_bytes(model.SerializeToString())
    return Saved([path.name], _options(request, source, half))


def _options(request: ConversionRequest, source: Source, half: bool) -> dict:
    return {
        "half": half,
        "stored_in_8_bits": request.quantized and source.small,
        "folds": request.opt_config is None or "conv_scale_fold" in request.opt_config,
        "minimum_segment_size": request.minimum_segment_size,
    }


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
    # Several threads may run one session of ONNX Runtime at the same time.
    return functools.partial(as_function, new_session(str(path), described, execution.threads))


def layers(path: Path) -> list[str]:
    """Returns the layers of an ONNX model; see `Backend.layers`."""
    import onnx

    return [node.name for node in _layers(onnx.load(path, load_external_data=False))]


def probe(path: Path, described: Mapping, layers: list[str]) -> Function:
    """Loads an ONNX model with the outputs of layers as additional outputs; see `Backend.probe`."""
    import onnx

    model, wanted = onnx.load(path, load_external_data=False), set(layers)
    renamed = {node.output[0]: node.name for node in _layers(model) if node.name in wanted}
    model.graph.output.extend(onnx.ValueInfoProto(name=tensor) for tensor in renamed)
    content, folder = model.SerializeToString(), path.parent
    run = as_function(new_session(content, described, weights_folder=folder))
    return lambda inputs: {renamed.get(name, name): x for name, x in run(inputs).items()}


def _layers(model) -> list:
    """Returns the nodes with one output that is not an output of the graph."""
    outputs = {tensor.name for tensor in model.graph.output}
    nodes = (node for node in model.graph.node if len(node.output) == 1)
    return [node for node in nodes if node.output[0] not in outputs]


def new_session(
    model: str | bytes,
    described: Mapping,
    threads: int | None = None,
    *,
    weights_folder: Path | None = None,
) -> onnxruntime.InferenceSession:
    """Loads an ONNX model for the available execution providers.

    Args:
        model: path of the file, or its content.
        described: see `Backend.open`; `small`, `options` and `inputs` are used, all are optional.
        threads: number of threads of a call; None uses one for each core.
        weights_folder: folder of the files with weights that the content of a file refers to; None
            for none. For a path, it is that of the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # It would plan the memory of each new shape and keep the plan: 1 MB for 200 lengths of a
    # wav2vec 2.0 of width 96, with the same speed.
    options.enable_mem_pattern = not _has_ranges(described)
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
    if weights_folder is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(weights_folder))
    if chosen.get("stored_in_8_bits", False):
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    kept = [] if chosen.get("folds", True) else _FOLDING
    return onnxruntime.InferenceSession(
        model, options, providers=providers, disabled_optimizers=kept
    )


def _has_ranges(described: Mapping) -> bool:
    """Returns whether an input of a signature has a range of sizes."""
    shapes = (shape for _, _, shape in described.get("inputs", ()))
    return any(not isinstance(size, int) for shape in shapes for size in shape)


def as_function(session: onnxruntime.InferenceSession) -> Function:
    """Returns a function that runs a session of ONNX Runtime.

    Args:
        session: session that the function runs.
    """
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            outputs = session.run(names, dict(inputs))
        except InvalidArgument as error:
            raise UserError.at_run(error) from error
        except (Fail, RuntimeException) as error:
            raise RuntimeError(str(error)) from error
        return dict(zip(names, outputs, strict=True))

    return run
