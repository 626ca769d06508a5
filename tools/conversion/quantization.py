"""Quantizes models to 8 bits after training, with NNCF."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from tools.conversion.request import Quantization
from tools.errors import UserError

Model = TypeVar("Model")


def layer_pattern(layer: str) -> str:
    """Returns a regular expression for the nodes of a layer.

    It allows the numbers that TensorFlow appends to repeated names.

    Args:
        layer: name of the layer, such as `block_0/attention`.
    """
    parts = (re.escape(part) + r"(_\d+)?" for part in layer.strip("/").split("/"))
    return rf"(.*/)?{'/'.join(parts)}(/.*)?"


def ignored_nodes(names: Iterable[str], layers: Iterable[str]) -> list[str]:
    """Returns the nodes that stay in float.

    Args:
        names: names of all nodes.
        layers: layers that stay in float. `-NAME` removes the nodes of a layer again; later entries
            override earlier ones.

    Raises:
        UserError: a layer has no nodes.
    """
    names, ignored = list(names), set()
    for layer in layers:
        pattern = re.compile(layer_pattern(layer.removeprefix("-")))
        found = [name for name in names if pattern.fullmatch(name)]
        if not found:
            parts = (re.sub(r"_\d+$", "", part) for name in names for part in name.split("/")[:-1])
            known = sorted(set(parts))
            raise UserError.expected(
                f"layers of the model to keep in float, made of {', '.join(known)}",
                layer,
                "Correct --keep_in_float",
            )
        if layer.startswith("-"):
            ignored.difference_update(found)
        else:
            ignored.update(found)
    return sorted(ignored)


def quantize(
    model: Model,
    quantization: Quantization,
    batches: Sequence[Mapping[str, np.ndarray]],
    ignored: Sequence[str],
    *,
    accuracy: Callable[[object, Iterable[int]], float] | None = None,
) -> Model:
    """Quantizes a model of OpenVINO or ONNX.

    Args:
        model: model with free dimensions. NNCF would allocate memory for the upper ends of ranges.
        quantization: options.
        batches: inputs for calibration.
        ignored: names of nodes that stay in float.
        accuracy: function of a model and of indices of batches, which returns the accuracy;
            required if `quantization.max_accuracy_drop` is set.

    Returns:
        The quantized model.

    Source: NNCF 3.4, `quantize` and `quantize_with_accuracy_control`.
    """
    nncf = _nncf()
    parameters = nncf.quantization.advanced_parameters
    ranges = nncf.quantization.range_estimator.RangeEstimatorParametersSet
    mode = {"symm": "symmetric", "asym": "asymmetric"}[quantization.type]
    estimator = {"linear": ranges.MINMAX, "eqnm": ranges.HISTOGRAM}[quantization.algo]
    judged = quantization.max_accuracy_drop is not None
    dataset = nncf.Dataset(range(len(batches)), lambda number: dict(batches[number]))
    options = {
        "model_type": nncf.ModelType.TRANSFORMER,
        "subset_size": len(batches),
        "ignored_scope": nncf.IgnoredScope(names=list(ignored), validate=False),
        "advanced_quantization_parameters": parameters.AdvancedQuantizationParameters(
            # One range for all channels of an activation: with a transposition before a depthwise
            # convolution, NNCF would use the time axis as channels.
            activations_quantization_params=parameters.QuantizationParameters(
                mode=mode, per_channel=False
            ),
            weights_quantization_params=parameters.QuantizationParameters(
                mode="symmetric",
                per_channel=quantization.granularity == "per_axis",
            ),
            activations_range_estimator_params=estimator,
            # SmoothQuant moves factors from inputs to weights. NNCF 3.4 restores the original
            # weights of a layer that goes back to float, but not its inputs.
            smooth_quant_alphas=parameters.AdvancedSmoothQuantParameters(
                **{"matmul": -1, "convolution": -1} if judged else {}
            ),
        ),
    }
    with contextlib.redirect_stdout(sys.stderr):  # the progress bars of NNCF
        if not judged:
            options["advanced_parameters"] = options.pop("advanced_quantization_parameters")
            quantized = nncf.quantize(model, dataset, **options)
            # Matrix products with constants, such as positions, are not quantized yet.
            return compress_weights(quantized, ignored)
        return nncf.quantize_with_accuracy_control(
            model,
            calibration_dataset=dataset,
            validation_dataset=dataset,
            validation_fn=lambda candidate, numbers: (accuracy(candidate, list(numbers)), None),
            max_drop=quantization.max_accuracy_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            **options,
        )


def compress_weights(model: Model, ignored: Sequence[str] = ()) -> Model:
    """Stores weights in 8 bits. The runtime converts them to float when it loads or runs the model.

    Args:
        model: model to compress.
        ignored: names of nodes that stay in float.

    Returns:
        The compressed model.

    Source: NNCF 3.4, `compress_weights`.
    """
    nncf = _nncf()
    with contextlib.redirect_stdout(sys.stderr):
        return nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT8_SYM,
            ignored_scope=nncf.IgnoredScope(names=list(ignored), validate=False),
        )


def _nncf():
    """Imports NNCF without its telemetry.

    NNCF 3.4 joins types of ONNX by `|` when it is imported, which protobuf 4 does not support. The
    workaround can be removed when TensorFlow supports protobuf 5.
    """
    os.environ.setdefault("NNCF_CI", "1")
    EnumTypeWrapper.__or__ = lambda self, other: object
    try:
        import nncf
        import nncf.onnx.quantization.quantizer_parameters
    finally:
        del EnumTypeWrapper.__or__
    # The function of NNCF for this would also change the handlers of other packages.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
