"""What a conversion is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tools.conversion.dim_range import DimRanges
from tools.conversion.quantization import FLOATS, Quantization

OPT_CONFIG = ("conv_scale_fold", "type64to32_conversion")


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
