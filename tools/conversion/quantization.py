"""Post-training quantization to 8 bits with the algorithms of NNCF."""

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
    """The regular expression for the nodes of a layer: TensorFlow numbers what occurs again."""
    parts = (re.escape(part) + r"(_\d+)?" for part in layer.strip("/").split("/"))
    return rf"(.*/)?{'/'.join(parts)}(/.*)?"


def ignored_nodes(names: Iterable[str], layers: Iterable[str]) -> list[str]:
    """Lists the nodes of layers, without those of layers behind a `-`; the last one counts.

    Raises:
        UserError: a layer has none.
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
        model: with free dimensions: bounds would count as sizes to allocate.
        quantization: how.
        batches: inputs to calibrate with.
        ignored: names of nodes that stay in float.
        accuracy: of a model as NNCF hands it over, on batches by number; asked for where
            `quantization.max_accuracy_drop` is set.

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
            # One range for all channels of an activation: NNCF would count those of a depthwise
            # convolution on the axis of time where a transposition lies between.
            activations_quantization_params=parameters.QuantizationParameters(
                mode=mode, per_channel=False
            ),
            weights_quantization_params=parameters.QuantizationParameters(
                mode="symmetric",
                per_channel=quantization.granularity == "per_axis",
            ),
            activations_range_estimator_params=estimator,
            # A layer that goes back to float gets its first weights, whatever was moved between
            # them and its inputs to smooth those (NNCF 3.4).
            smooth_quant_alphas=parameters.AdvancedSmoothQuantParameters(
                **{"matmul": -1, "convolution": -1} if judged else {}
            ),
        ),
    }
    with contextlib.redirect_stdout(sys.stderr):  # its progress bars
        if not judged:
            options["advanced_parameters"] = options.pop("advanced_quantization_parameters")
            quantized = nncf.quantize(model, dataset, **options)
            # Products with what does not depend on the input, such as positions, are left.
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
    """Stores weights in 8 bits, to be multiplied out when a model is loaded or where it runs.

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
    """NNCF, without its reports to the network.

    With protobuf 4 the types of ONNX cannot be joined by `|`, as NNCF 3.4 does when it is imported;
    to go when TensorFlow admits protobuf 5.
    """
    os.environ.setdefault("NNCF_CI", "1")
    EnumTypeWrapper.__or__ = lambda self, other: object
    try:
        import nncf
        import nncf.onnx.quantization.quantizer_parameters
    finally:
        del EnumTypeWrapper.__or__
    # Its own function would set the level of every handler that others have added, too.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf
