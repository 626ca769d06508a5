"""The flags that every inference program shares, by their original names."""

from tools.config.command_line import CommandLine
from tools.conversion import backends
from tools.conversion.request import ALGORITHMS, GRANULARITIES, TYPES
from tools.inference.options import RunnerOptions

_DEFAULTS = RunnerOptions()


def add_inference_flags(flags: CommandLine, default_model: str = "the bundled one") -> None:
    """Adds the shared flags to a program's command line.

    Args:
        flags: of the program.
        default_model: what --help calls the model that runs when none is named.
    """
    flags.group("Model")
    flags.string("native_savedmodel_dir", None, "SavedModel to run.", default_text=default_model)
    flags.group("Input")
    flags.string("data_dir", None, "Data set to run and score: a whole set or one split.")
    flags.group("Runtime")
    flags.integer("batch_size", _DEFAULTS.batch_size, "Inputs run together.")
    flags.group("Input")
    flags.number("data_ratio", 1.0, "Share of the data set to use, spread over the whole.")
    flags.group("Runtime")
    flags.boolean(
        "run_eagerly", False, "TensorFlow's own runtime on the SavedModel; else a converted one."
    )
    flags.integer("threads", None, "Of the runtime.", default_text="as many as it chooses")
    flags.integer("warmup_count", 1, "Batches run before the clock starts.")
    flags.group("Output")
    about = "JSON report to write, with a TSV of the answers beside it."
    flags.string("result_path", None, about, default_text="none")
    add_conversion_flags(flags)


def add_conversion_flags(flags: CommandLine) -> None:
    """Adds what a conversion depends on."""
    flags.group("Runtime")
    flags.string(
        "visible_devices", None, "GPUs that may be used: 0,1; none: -1.", default_text="all"
    )
    flags.group("Conversion")
    flags.string(
        "converted_savedmodel_dir",
        None,
        "Where the converted model is, or is to be made.",
        default_text="a folder of the user's cache",
    )
    flags.enum(
        "backend",
        _DEFAULTS.backend,
        ("auto", *backends.NAMES),
        "Runtime of the converted model; auto measures openvino against onnxruntime once.",
    )
    flags.string(
        "quant_precision",
        _DEFAULTS.quant_precision,
        "Its precision: fp32, fp16, bf16, int8_fp32, int8_fp16.",
    )
    flags.boolean(
        "enable_dim_range", True, "Serves a range of shapes; else one shape, padded up to."
    )
    flags.string(
        "dim_range",
        None,
        'Shapes that it serves: "waveforms=1:8,16000:560000".',
        default_text="batches up to 64 or --batch_size, the lengths that the model takes",
    )
    flags.number(
        "max_seconds",
        None,
        "Refuses longer sounds; without --enable_dim_range all are padded up to it.",
        default_text="the model's",
    )
    flags.group("Quantization")
    flags.string("calibration_data_dir", None, "Data to quantize with.", default_text="--data_dir")
    flags.integer(
        "calibration_samples",
        _DEFAULTS.calibration_samples,
        "How many of them, spread over the whole.",
    )
    flags.enum(
        "quantize_algo",
        _DEFAULTS.quantize_algo,
        ALGORITHMS,
        "Ranges: extremes, or the least error.",
    )
    flags.enum("quantize_type", _DEFAULTS.quantize_type, TYPES, "Zero points of activations.")
    flags.enum(
        "quantize_granularity", _DEFAULTS.quantize_granularity, GRANULARITIES, "Scales of weights."
    )
    about = (
        'Layers not to quantize: "block_0/attention,subsampling"; "-head": quantized all the same.'
    )
    flags.string("keep_in_float", "", about)
    flags.number(
        "max_accuracy_drop",
        None,
        "Puts layers back to float until the accuracy on the calibration data holds.",
        default_text="no limit",
    )
    flags.group("Conversion")
    flags.string(
        "opt_config", _DEFAULTS.opt_config, "Optional rewrites of the graph, with commas, or none."
    )
    flags.integer(
        "minimum_segment_size",
        _DEFAULTS.minimum_segment_size,
        "Fewest operators worth an accelerator.",
    )
