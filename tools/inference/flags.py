"""Flags that all inference programs share. They have the names of the original programs."""

from tools.config.command_line import CommandLine
from tools.conversion import backends
from tools.conversion.pipeline import POLICIES
from tools.conversion.request import ALGORITHMS, GRANULARITIES, TYPES
from tools.inference.options import RunnerOptions

_DEFAULTS = RunnerOptions()


def add_inference_flags(
    flags: CommandLine, default_model: str = "the bundled one", *, of_images: bool = False
) -> None:
    """Adds the shared flags to a program's command line.

    Args:
        flags: command line of the program.
        default_model: name in --help of the model that runs by default.
        of_images: whether the program runs models for images only.
    """
    flags.group("Model")
    flags.string("native_savedmodel_dir", None, "SavedModel to run.", default_text=default_model)
    flags.group("Input")
    flags.string("data_dir", None, "Data set to run and score: a whole set or one split.")
    flags.group("Runtime")
    flags.integer("batch_size", _DEFAULTS.batch_size, "Number of inputs in a batch.")
    flags.group("Input")
    flags.number("data_ratio", 1.0, "Share of the data set to use, at regular intervals.")
    flags.group("Runtime")
    flags.boolean(
        "run_eagerly", False, "Runs the SavedModel in TensorFlow instead of a converted model."
    )
    flags.integer("threads", None, "Threads of the runtime.", default_text="chosen by the runtime")
    flags.integer("warmup_count", 1, "Batches that run before the time is measured.")
    flags.group("Output")
    about = "JSON report to write. The results are written to a TSV file beside it."
    flags.string("result_path", None, about, default_text="none")
    add_conversion_flags(flags, of_images=of_images)


def add_precision_flag(flags: CommandLine) -> None:
    """Adds `--precision` to the command line of a program that exports SavedModels."""
    flags.group("Output")
    about = (
        "Precision in which the SavedModel computes. fp16 and bf16 compute softmax, norms and "
        "heads in float32; such a model runs in TensorFlow and is not converted."
    )
    flags.enum("precision", "fp32", tuple(POLICIES), about)


def add_conversion_flags(
    flags: CommandLine, *, of_images: bool = False, longest_sound: str = "no limit"
) -> None:
    """Adds the flags of the conversion.

    Args:
        flags: command line of the program.
        of_images: whether the program converts models for images only. It then has no flags that
            concern sounds.
        longest_sound: what the program does without `--max_seconds`, for --help.
    """
    example, lengths = "waveforms=1:8,16000:560000", ", and the lengths that the model accepts"
    layers, head = "block_0/attention,subsampling", "head"
    if of_images:
        example, lengths = "images=1:8", ""
        layers, head = "coupled_2,stem", "convolution_head"
    flags.group("Runtime")
    flags.string(
        "visible_devices", None, "GPUs to use, such as 0,1; -1 uses none.", default_text="all"
    )
    flags.group("Conversion")
    flags.string(
        "converted_savedmodel_dir",
        None,
        "Directory of the converted model; it is created if it does not exist.",
        default_text="a folder of the user's cache",
    )
    flags.enum(
        "backend",
        _DEFAULTS.backend,
        ("auto", *backends.NAMES),
        "Runtime of the converted model. auto times openvino and onnxruntime once.",
    )
    flags.string(
        "quant_precision",
        None,
        "Precision of the converted model: fp32, fp16, bf16, int8_fp32 or int8_fp16. With "
        "--run_eagerly, that of the SavedModel.",
        default_text="fp32; with --run_eagerly that of the SavedModel",
    )
    flags.boolean(
        "enable_dim_range", True, "Accepts a range of shapes. 0 pads all inputs to one shape."
    )
    flags.string(
        "dim_range",
        None,
        f'Shapes to accept, such as "{example}".',
        default_text=f"batches up to 64 or --batch_size{lengths}",
    )
    if not of_images:
        flags.number(
            "max_seconds",
            None,
            "Longest sound in seconds. With --enable_dim_range=0, all sounds are padded to it.",
            default_text=f"{longest_sound}; with --enable_dim_range=0 that of the model",
        )
    flags.group("Quantization")
    flags.string(
        "calibration_data_dir", None, "Data set for calibration.", default_text="--data_dir"
    )
    flags.integer(
        "calibration_samples",
        _DEFAULTS.calibration_samples,
        "Number of calibration samples, taken at regular intervals from the data set.",
    )
    flags.enum(
        "quantize_algo",
        _DEFAULTS.quantize_algo,
        ALGORITHMS,
        "Range of an activation: linear uses its extremes, eqnm minimizes the error.",
    )
    flags.enum(
        "quantize_type",
        _DEFAULTS.quantize_type,
        TYPES,
        "Zero point of activations: symm in the middle of the range, asym where it fits best.",
    )
    flags.enum(
        "quantize_granularity",
        _DEFAULTS.quantize_granularity,
        GRANULARITIES,
        "One scale for each weight tensor, or for each of its output channels.",
    )
    about = f'Layers not to quantize, such as "{layers}". "-{head}": quantizes {head}.'
    flags.string("keep_in_float", "", about)
    flags.number(
        "max_accuracy_drop",
        None,
        "Largest drop of the accuracy on the calibration data. Layers go back to float to meet it.",
        default_text="no limit",
    )
    flags.group("Conversion")
    flags.string(
        "opt_config", _DEFAULTS.opt_config, "Optional graph rewrites, separated by commas, or none."
    )
    flags.integer(
        "minimum_segment_size",
        _DEFAULTS.minimum_segment_size,
        "Smallest number of operators that TensorRT takes over.",
    )
