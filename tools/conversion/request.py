"""The request of a conversion."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# Ranges of the free dimensions of tensors, by the name of the tensor, with the batch first.
DimRanges = Mapping[str, tuple[tuple[int, int], ...]]

OPT_CONFIG = ("conv_scale_fold", "type64to32_conversion")
# Precision of the operators that are not quantized.
FLOATS = {"int8_fp32": "fp32", "int8_fp16": "fp16"}
ALGORITHMS = ("linear", "eqnm")
TYPES = ("symm", "asym")
GRANULARITIES = ("per_tensor", "per_axis")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model is quantized.

    Attributes:
        algo: how the range of an activation is chosen: `linear` uses the smallest and the largest
            value, `eqnm` minimizes the quantization error over a histogram.
        type: zero point of activations: `symm` in the middle of the range, `asym` where it fits
            best. Weights are always symmetric.
        granularity: scales of weights: `per_tensor`, or `per_axis` for each output channel.
        keep_in_float: names of layers that are not quantized, such as `block_0/attention`. `-NAME`
            quantizes a layer, even if the model itself keeps it in float.
        max_accuracy_drop: largest drop of the accuracy on the calibration data. Layers go back to
            float until it is met. None sets no limit.
    """

    algo: str = "linear"
    type: str = "symm"
    granularity: str = "per_tensor"
    keep_in_float: tuple[str, ...] = ()
    max_accuracy_drop: float | None = None


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """Options of a converted model.

    Attributes:
        backend: name of the runtime, from `backends.NAMES`, or `auto`.
        precision: a precision that the backend supports.
        batch: smallest and largest batch.
        dim_range: ranges of free dimensions by tensor, with the batch first. They override `batch`
            and the ranges of `pipeline.json`.
        opt_config: optional rewrites of the graph, from `OPT_CONFIG`.
        minimum_segment_size: smallest number of operators that TensorRT takes over.
        quantization: options of precisions that begin with `int8`; None for other precisions.
    """

    backend: str = "auto"
    precision: str = "fp32"
    batch: tuple[int, int] = (1, 2)
    dim_range: DimRanges = field(default_factory=dict)
    opt_config: tuple[str, ...] | None = OPT_CONFIG
    minimum_segment_size: int | None = 3
    quantization: Quantization | None = field(default_factory=Quantization)

    @property
    def quantized(self) -> bool:
        """Whether weights and activations are quantized."""
        return self.precision in FLOATS

    @property
    def float_precision(self) -> str:
        """Precision of the operators that are not quantized."""
        return FLOATS.get(self.precision, self.precision)

    def settled(self, backend: str, not_applicable: Mapping[str, str]) -> "ConversionRequest":
        """Returns the request for a backend, with None for fields that do not apply to it.

        Args:
            backend: name of the backend.
            not_applicable: fields that do not apply to it, with the reasons.
        """
        given = {name: None for name in not_applicable}
        if not self.quantized:
            given["quantization"] = None
        return replace(self, backend=backend, **given)
