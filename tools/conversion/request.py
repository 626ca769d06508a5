"""What a conversion is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# Of each tensor named, a range for every dimension that the model leaves free, batch first.
DimRanges = Mapping[str, tuple[tuple[int, int], ...]]

OPT_CONFIG = ("conv_scale_fold", "type64to32_conversion")
# What the float operators between the quantized ones compute in.
FLOATS = {"int8_fp32": "fp32", "int8_fp16": "fp16"}
ALGORITHMS = ("linear", "eqnm")
TYPES = ("symm", "asym")
GRANULARITIES = ("per_tensor", "per_axis")


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model is quantized.

    Attributes:
        algo: how the range of an activation is found: `linear` takes the smallest and the largest
            value, `eqnm` the range of the least error over a histogram.
        type: `symm` puts the zero point of activations in the middle of their range, `asym` where
            it fits. Weights are symmetric.
        granularity: of weights: one scale for a tensor, or one for each output channel.
        keep_in_float: layers that stay as they are, by name: `block_0/attention`, `subsampling`;
            behind a `-` those that do not, although the model itself keeps them.
        max_accuracy_drop: layers go back to float until the accuracy on the calibration data has
            dropped by no more than this; None takes the model as it is.
    """

    algo: str = "linear"
    type: str = "symm"
    granularity: str = "per_tensor"
    keep_in_float: tuple[str, ...] = ()
    max_accuracy_drop: float | None = None


@dataclass(frozen=True, slots=True)
class ConversionRequest:
    """What an artifact is to be.

    Attributes:
        backend: a name of `backends.NAMES`, or `auto`.
        precision: one that the backend has.
        batch: smallest and largest batch.
        dim_range: by tensor, ranges of its free dimensions, batch first; they win over `batch` and
            over what `pipeline.json` says.
        opt_config: optional rewrites of the graph, names of `OPT_CONFIG`.
        minimum_segment_size: fewest operators that are worth an accelerator of their own.
        quantization: of the precisions that begin with `int8`; None for the others.
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
        """Whether weights and activations become integers."""
        return self.precision in FLOATS

    @property
    def float_precision(self) -> str:
        """The precision of what stays in float."""
        return FLOATS.get(self.precision, self.precision)

    def settled(self, backend: str, not_applicable: Mapping[str, str]) -> "ConversionRequest":
        """The same for a backend, without what does not apply to it: None in its place."""
        given = {name: None for name in not_applicable}
        if not self.quantized:
            given["quantization"] = None
        return replace(self, backend=backend, **given)
