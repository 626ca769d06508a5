"""What a program or a caller asks of inference, as frozen options."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from tools.conversion.dim_range import parse_dim_ranges
from tools.conversion.machine import num_cores
from tools.conversion.protocol import Execution
from tools.conversion.request import OPT_CONFIG, ConversionRequest, DimRanges, Quantization
from tools.errors import UserError

_LARGEST_BATCH = 64  # that a conversion serves, so that one conversion does for all batch sizes


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """What a conversion depends on.

    Attributes:
        batch_size: inputs that are run together.
        data_dir: data set that is run; it calibrates where `calibration_data_dir` is not given.
        converted_savedmodel_dir: place of the converted model; None: a folder of the user's cache.
        backend: runtime of the converted model: openvino, onnxruntime or xla; auto: the faster one
            of openvino and onnxruntime, which is measured once.
        quant_precision: of the converted model: fp32, fp16, bf16, int8_fp32 or int8_fp16.
        enable_dim_range: whether a range of shapes is served, or one shape, padded up to.
        dim_range: ranges of shapes, as `TENSOR=LOW:HIGH,LOW:HIGH` with the batch first; None:
            batches up to 64, or up to `batch_size` where that is larger; the sizes that the model
            takes.
        max_seconds: of the longest sound; None: as long as the model takes.
        calibration_data_dir: data to quantize with, read as for inference.
        calibration_samples: how many of them, spread over the whole.
        quantize_algo: `linear` (extremes) or `eqnm` (least error).
        quantize_type: zero points of activations, `symm` or `asym`.
        quantize_granularity: scales of weights, `per_tensor` or `per_axis`.
        keep_in_float: layers not to quantize, with commas; `-head`: quantized all the same.
        max_accuracy_drop: layers go back to float until the accuracy on the calibration data has
            dropped by no more than this.
        opt_config: optional rewrites of the graph, with commas, or `none`.
        minimum_segment_size: fewest operators that are handed to TensorRT.
    """

    batch_size: int = 1
    data_dir: str | None = None
    converted_savedmodel_dir: str | None = None
    backend: str = "auto"
    quant_precision: str = "fp32"
    enable_dim_range: bool = True
    dim_range: str | None = None
    max_seconds: float | None = None
    calibration_data_dir: str | None = None
    calibration_samples: int = 128
    quantize_algo: str = "linear"
    quantize_type: str = "symm"
    quantize_granularity: str = "per_tensor"
    keep_in_float: str = ""
    max_accuracy_drop: float | None = None
    opt_config: str = ",".join(OPT_CONFIG)
    minimum_segment_size: int = 3

    def request(self, pipeline: Mapping) -> ConversionRequest:
        """Makes the request for a model that describes itself by `pipeline`.

        Raises:
            UserError: an option is out of its range, or two exclude each other.
        """
        drop = self.max_accuracy_drop
        for flag, valid in (
            ("batch_size >= 1", self.batch_size >= 1),
            ("calibration_samples >= 1", self.calibration_samples >= 1),
            ("minimum_segment_size >= 1", self.minimum_segment_size >= 1),
            ("max_accuracy_drop between 0 and 1", drop is None or 0 <= drop <= 1),
        ):
            if not valid:
                name = flag.split()[0]
                raise UserError.expected(f"--{flag}", getattr(self, name), f"Correct --{name}")
        ranges = self._dim_range(pipeline)
        batch = (
            (1, max(_LARGEST_BATCH, self.batch_size))
            if self.enable_dim_range
            else (self.batch_size,) * 2
        )
        return ConversionRequest(
            backend=self.backend,
            precision=self.quant_precision,
            # One conversion serves every batch size within the same ranges.
            batch=next((sizes[0] for sizes in ranges.values()), batch),
            dim_range=ranges,
            opt_config=() if self.opt_config == "none" else _words(self.opt_config),
            minimum_segment_size=self.minimum_segment_size,
            quantization=Quantization(
                algo=self.quantize_algo,
                type=self.quantize_type,
                granularity=self.quantize_granularity,
                keep_in_float=_words(self.keep_in_float),
                max_accuracy_drop=self.max_accuracy_drop,
            ),
        )

    @property
    def execution(self) -> Execution:
        """How the runtime uses the machine."""
        return Execution(throughput=self.batch_size > 1)

    def _dim_range(self, pipeline: Mapping) -> DimRanges:
        """The ranges that were asked for; those of one shape are single sizes."""
        if self.dim_range and not self.enable_dim_range:
            raise UserError.expected(
                "either --dim_range or --enable_dim_range=0", "both", "Leave one of them out"
            )
        if self.enable_dim_range:
            return parse_dim_ranges(self.dim_range) if self.dim_range else {}
        fixed = {}
        for conversion in pipeline["convert"].values():
            for tensor, ranges in conversion["dim_range"].items():
                sizes = [high for _, high in ranges]
                if tensor == "waveforms" and self.max_seconds is not None:
                    samples = round(self.max_seconds * pipeline["sample_rate_hz"])
                    sizes = [max(ranges[0][0], min(samples, ranges[0][1]))]
                fixed[tensor] = tuple((size, size) for size in (self.batch_size, *sizes))
        return fixed


OF_SOUNDS = ("max_seconds",)  # fields of `RunnerOptions` that mean nothing to images


@dataclass(frozen=True, slots=True)
class RunnerOptions(ConversionOptions):
    """How a model is run.

    Attributes:
        run_eagerly: in TensorFlow on the SavedModel; else converted, which the first call for a
            model does.
        visible_devices: GPUs that may be used, as `0,1`; `-1`: none; None: all.
        threads: of the runtime; None: as many as it chooses.
    """

    run_eagerly: bool = False
    visible_devices: str | None = None
    threads: int | None = None

    @property
    def execution(self) -> Execution:
        """How the runtime uses the machine.

        Raises:
            UserError: `threads` is below 1, or there are fewer cores.
        """
        cores = num_cores()
        if self.threads is not None and not 1 <= self.threads <= cores:
            raise UserError.expected(
                f"--threads from 1 to {cores}, the cores of this machine",
                self.threads,
                "Correct --threads",
            )
        return Execution(self.threads, throughput=self.batch_size > 1)

    def as_keywords(self) -> dict[str, Any]:
        """Gives the fields by name, for options of a kind that has more of them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class RunnerKeywords(TypedDict, total=False):
    """The fields of `RunnerOptions` for type checkers, but for those of sounds."""

    batch_size: int
    data_dir: str | None
    converted_savedmodel_dir: str | None
    backend: str
    quant_precision: str
    enable_dim_range: bool
    dim_range: str | None
    calibration_data_dir: str | None
    calibration_samples: int
    quantize_algo: str
    quantize_type: str
    quantize_granularity: str
    keep_in_float: str
    max_accuracy_drop: float | None
    opt_config: str
    minimum_segment_size: int
    run_eagerly: bool
    visible_devices: str | None
    threads: int | None


class SpeechKeywords(RunnerKeywords, total=False):
    """The fields of `RunnerOptions` for type checkers: keywords of the functions that take them."""

    max_seconds: float | None


@dataclass(frozen=True, slots=True)
class DataOptions:
    """What a program runs, and what it writes.

    Attributes:
        paths: files and folders.
        data_dir: a data set in their place, which is scored as well.
        data_ratio: share of the data set to use, spread over the whole.
        batch_size: inputs that are run together.
        warmup_count: batches that are run before the clock starts.
        result_path: of the report.
        timestamps: whether words are told with their times.
    """

    paths: tuple[str, ...] = ()
    data_dir: str | None = None
    data_ratio: float = 1.0
    batch_size: int = 1
    warmup_count: int = 1
    result_path: str | None = None
    timestamps: bool = False


def check_seconds(max_seconds: float | None) -> None:
    """Checks `max_seconds` of any options."""
    if max_seconds is not None and not 0 < max_seconds < math.inf:
        raise UserError.expected("--max_seconds > 0", max_seconds, "Correct the flag")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
