"""Options of inference as frozen dataclasses."""

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

SCORE_TEXTS = ("raw", "normalized")  # of `DataOptions.score_text`
_LARGEST_BATCH = 64  # of each conversion, so that usual batch sizes need only one conversion


@dataclass(frozen=True, slots=True)
class ConversionOptions:
    """Options of the conversion of a SavedModel.

    Attributes:
        batch_size: number of inputs in a batch.
        data_dir: data set to run. It is also used for calibration if `calibration_data_dir` is not
            set.
        converted_savedmodel_dir: directory of the converted model. None uses a directory in the
            cache of the user.
        backend: runtime of the converted model: `openvino`, `onnxruntime` or `xla`. `auto` times
            OpenVINO and ONNX Runtime once and uses the faster one.
        quant_precision: precision of the converted model: `fp32`, `fp16`, `bf16`, `int8_fp32` or
            `int8_fp16`; or that of a SavedModel that runs eagerly. None: `fp32`, and that of a
            SavedModel that runs eagerly.
        enable_dim_range: whether the converted model accepts a range of shapes. False pads all
            inputs to one shape.
        dim_range: shapes to accept, as `TENSOR=LOW:HIGH,LOW:HIGH` with the batch first. None
            accepts batches up to 64, or up to `batch_size` if it is larger, and all lengths of the
            model.
        max_seconds: length of the longest sound in seconds that is accepted. None sets no limit for
            sounds, and uses the limit of the model without `enable_dim_range`.
        calibration_data_dir: data set for calibration, preprocessed as for inference.
        calibration_samples: number of calibration samples, taken at regular intervals from the data
            set.
        quantize_algo: how the range of an activation is chosen: `linear` uses the smallest and the
            largest value, `eqnm` minimizes the quantization error.
        quantize_type: zero point of activations: `symm` in the middle of the range, `asym` where it
            fits best.
        quantize_granularity: scales of weights: `per_tensor` or `per_axis` (output channels).
        keep_in_float: layers that are not quantized, separated by commas. `-head` quantizes the
            layer `head`, even if the model itself keeps it in float.
        max_accuracy_drop: largest drop of the accuracy on the calibration data, from 0 to 1. Layers
            go back to float until it is met. None sets no limit.
        opt_config: optional graph rewrites, separated by commas, or `none`.
        minimum_segment_size: smallest number of operators that TensorRT takes over.
    """

    batch_size: int = 1
    data_dir: str | None = None
    converted_savedmodel_dir: str | None = None
    backend: str = "auto"
    quant_precision: str | None = None
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
        """Returns the conversion request for a model.

        Args:
            pipeline: content of the model's `pipeline.json`.

        Raises:
            UserError: an option is out of its range, or two options exclude each other.
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
            precision=self.quant_precision or "fp32",
            # Without a range of the user, all batch sizes up to 64 share one conversion.
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
        """Returns the ranges of the options; without `enable_dim_range`, each range is one size."""
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


OF_SOUNDS = ("max_seconds",)  # fields of `RunnerOptions` that do not apply to images


@dataclass(frozen=True, slots=True)
class RunnerOptions(ConversionOptions):
    """Options of a runner: the options of the conversion, and those of the runtime.

    Attributes:
        run_eagerly: whether the SavedModel runs in TensorFlow. False runs a converted model, which
            the first call for a SavedModel makes.
        visible_devices: GPUs to use, such as `0,1`. `-1` uses none, None uses all.
        threads: number of threads of the runtime. None leaves the number to the runtime.
    """

    run_eagerly: bool = False
    visible_devices: str | None = None
    threads: int | None = None

    @property
    def execution(self) -> Execution:
        """How the runtime uses the machine.

        Raises:
            UserError: `threads` is below 1 or above the number of cores.
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
        """Returns the fields by name, as keywords for a subclass with more fields."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class RunnerKeywords(TypedDict, total=False):
    """Types of the fields of `RunnerOptions` as keywords, without those of sounds."""

    batch_size: int
    data_dir: str | None
    converted_savedmodel_dir: str | None
    backend: str
    quant_precision: str | None
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
    """Types of the fields of `RunnerOptions` as keywords."""

    max_seconds: float | None


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Inputs and outputs of a program.

    Attributes:
        paths: files and directories to run.
        data_dir: data set to run and score, instead of `paths`.
        data_ratio: share of the data set to use, taken at regular intervals.
        batch_size: number of inputs in a batch.
        warmup_count: number of batches that run before the time is measured.
        result_path: path of the JSON report; None writes no report.
        timestamps: whether to write the times of words.
        format: format of recognized speech, a key of `tools.speech.subtitles.SUFFIXES`; None prints
            texts, or words with `timestamps`.
        output_dir: folder for a file of each sound; None prints.
        max_line_width: largest number of characters in a line of a subtitle.
        max_line_count: largest number of lines of a subtitle.
        channels: `mix` mixes the channels of a sound, `each` recognizes each of them, a number from
            1 recognizes this one.
        score_text: texts whose error rates come first, `raw` or `normalized`; None decides by the
            transcripts and the vocabulary.
    """

    paths: tuple[str, ...] = ()
    data_dir: str | None = None
    data_ratio: float = 1.0
    batch_size: int = 1
    warmup_count: int = 1
    result_path: str | None = None
    timestamps: bool = False
    format: str | None = None
    output_dir: str | None = None
    max_line_width: int = 42
    max_line_count: int = 2
    channels: str = "mix"
    score_text: str | None = None


def check_seconds(max_seconds: float | None) -> None:
    """Checks that `max_seconds` is None, or positive and finite.

    Raises:
        UserError: it is something else.
    """
    if max_seconds is not None and not 0 < max_seconds < math.inf:
        raise UserError.expected("--max_seconds > 0", max_seconds, "Correct the flag")


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
