"""Flags of the vision programs, and conversion of flags to options.

Only programs import this module. Libraries receive options and do not know the flags.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

from tools.config.command_line import CommandLine
from tools.config.loader import leaf_keys
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.files import environment_path, to_json
from tools.inference.flags import add_inference_flags
from tools.inference.options import RunnerOptions
from vision.config import ConfigOptions, VisionConfig, all_arguments
from vision.options import (
    ClassifierOptions,
    EvaluationOptions,
    ImageDataOptions,
    InferenceOptions,
)
from vision.recipe_keys import (
    AMP_LEVELS,
    describe,
    dotted_keys,
    flat_keys,
    heading,
    kind_text,
)

MODEL_SECTIONS = ("model", "preprocessing")
_MODEL_KEYS = tuple(f"{section}." for section in MODEL_SECTIONS)
_USE_EMA = "use_ema"  # key in section `run` of the configuration
_DEFAULTS = VisionConfig()


def add_config_flags(flags: CommandLine, *sections: str) -> None:
    """Adds `--config`, `--set` and a flag for each key of some sections of the configuration.

    Args:
        flags: flags of the program.
        sections: sections of `VisionConfig`; without any, those of the model and its preprocessing.
    """
    keys = dotted_keys(leaf_keys(VisionConfig))
    wanted = sections or MODEL_SECTIONS
    _add_key_flags(flags, [name for name in keys if keys[name].split(".")[0] in wanted])


def add_weights_flag(flags: CommandLine) -> None:
    """Adds the flag `--use_ema`, which selects between the two sets of weights of a checkpoint."""
    flags.group("Model")
    flags.boolean(
        _USE_EMA,
        None,
        "Loads the averaged weights (EMA) of a checkpoint; --nouse_ema: loads the others.",
        default_text="for a run EMA if it has some; for a file EMA if it has no others",
    )


def add_training_flags(flags: CommandLine) -> None:
    """Adds `--config`, `--set` and a flag for each flat key of the configuration."""
    _add_key_flags(flags, flat_keys(leaf_keys(VisionConfig)))


def _add_key_flags(flags: CommandLine, names: Iterable[str]) -> None:
    """Adds `--config`, `--set` and a flag for each of some flat keys."""
    flags.group("Config")
    flags.string(
        "config", None, "YAML file, such as those in configs/vision.", default_text="Conformer-tiny"
    )
    flags.settings()
    defaults = all_arguments(_DEFAULTS)
    leaves = leaf_keys(VisionConfig)
    kinds = flat_keys(leaves)
    for name in names:
        flags.group(heading(name, leaves))
        options = {"short_name": "a"} if name == "arch" else {}
        if kinds[name] in (bool, bool | None):
            add = flags.boolean
        else:
            add, options["kind_text"] = flags.string, kind_text(kinds[name])
        shown = to_json(defaults.get(name, False))
        about = describe(name, leaves)
        add(name, None, about, default_text=f"that of the --config, else {shown}", **options)


def add_classifier_flags(flags: CommandLine) -> None:
    """Adds the flags that all programs for classification share."""
    add_inference_flags(flags, "none", of_images=True)
    flags.group("Model")
    flags.string(
        "checkpoint",
        None,
        "Weights to run in TensorFlow: training checkpoint, or .pth, .safetensors or .keras file, "
        "also as hf:owner/name[@revision]/path.",
        short_name="c",
        default_text="none",
    )
    about = "Another name of --checkpoint."
    flags.string("pretrained", None, about, default_text="that of the --config")
    flags.string("onnx_path", None, "ONNX file to run in ONNX Runtime.", default_text="none")
    about = "File of class names."
    flags.string("imagenet_label_file", None, about, default_text="the names in the model")
    add_weights_flag(flags)
    flags.group("Runtime")
    about = (
        "Precision of a checkpoint. O0: float32; bfloat16: mixed bfloat16; others: mixed float16."
    )
    flags.enum("amp_level", None, sorted(AMP_LEVELS), about, default_text="O0")
    devices, about = ("GPU", "CPU"), "Device. GPU: uses a GPU if one is available."
    flags.enum("device_target", None, devices, about, short_name="m", default_text="GPU")
    flags.integer(
        "num_parallel_workers", 0, "Number of images read in parallel.", default_text="all cores"
    )
    flags.integer("prefetch", 0, "Number of images read in advance.", default_text="four batches")
    add_config_flags(flags)


def config_options(values: SimpleNamespace) -> ConfigOptions:
    """Returns the configuration options from the flags of `add_config_flags`."""
    names = {key.split(".")[1] for key in leaf_keys(VisionConfig) if key.startswith(_MODEL_KEYS)}
    return _config_options(values, {*names, _USE_EMA})


def training_config_options(values: SimpleNamespace) -> ConfigOptions:
    """Returns the configuration options from the flags of `add_training_flags`."""
    return _config_options(values, flat_keys(leaf_keys(VisionConfig)))


def run_config_options(values: SimpleNamespace) -> ConfigOptions:
    """Returns the configuration options of `vision.train`. `--checkpoint` continues its run.

    Raises:
        UserError: both `--checkpoint` and `--pretrained` are given.
    """
    options = training_config_options(values)
    if not values.checkpoint:
        return options
    return options.with_words(pretrained=checkpoint_of(values), exclude_epoch_state=False)


def _config_options(values: SimpleNamespace, names: Iterable[str]) -> ConfigOptions:
    given = {name: getattr(values, name, None) for name in names}
    words = {name: value for name, value in given.items() if value is not None}
    return ConfigOptions(values.config, values.set, words)


def checkpoint_of(values: SimpleNamespace) -> str | None:
    """Returns the value of `--checkpoint` or `--pretrained`; None if neither is given.

    Raises:
        UserError: both are given.
    """
    if values.checkpoint and values.pretrained:
        raise UserError.expected("--checkpoint or --pretrained", "both", "Leave one out")
    return values.checkpoint or values.pretrained or None


def inference_options(values: SimpleNamespace, places: Sequence[str]) -> InferenceOptions:
    """Returns the options of `vision.infer`.

    Args:
        values: values of the flags.
        places: positional arguments: an image or a folder, unless `--data_dir` is given.

    Raises:
        UserError: no image or folder or several of them are given, or a number is out of range.
    """
    named = [*places, *([values.data_dir] if values.data_dir else [])]
    place = _only_place(named, "one image or folder")
    if values.top_k < 1:
        raise UserError.expected("--top_k >= 1", values.top_k, "Correct --top_k")
    classifier = _classifier_options(values, _DEFAULTS)
    data = _data_options(values, place, _DEFAULTS)
    return InferenceOptions(classifier, data, values.output, values.top_k)


def evaluation_options(values: SimpleNamespace, places: Sequence[str]) -> EvaluationOptions:
    """Returns the options of `vision.eval`.

    If `--config` is given, it supplies data set, precision and device where no flag does.

    Args:
        values: values of the flags.
        places: positional arguments: an ImageFolder, unless the flags, the config or the
            environment variable IMAGENET_DIR name it.

    Raises:
        UserError: no ImageFolder or several of them are given, or a number is out of range.

    Source: MindSpore's recipe, whose eval.py has the arguments of its train.py.
    """
    recipe = config_options(values).load() if values.config else _DEFAULTS
    data_url = values.data_url
    if not (places or values.data_dir or data_url):
        data_url = recipe.data.data_url or environment_path("IMAGENET_DIR")
    val_dir = values.val_dir or recipe.data.val_dir or "val"
    named = [*places, values.data_dir, data_url and str(Path(data_url) / val_dir)]
    place = _only_place([x for x in named if x], "one ImageFolder, by --data_dir or --data_url")
    num_samples, seed = values.val_num_samples, values.seed
    if num_samples is not None and num_samples < 1 and num_samples != -1:
        raise UserError.expected("--val_num_samples >= 1, or -1", num_samples, "Correct it")
    return EvaluationOptions(
        _classifier_options(values, recipe),
        _data_options(values, place, recipe),
        num_samples=recipe.data.val_num_samples if num_samples is None else num_samples,
        seed=recipe.training.seed if seed is None else seed,
        analysis_dir=values.analysis_dir,
        anno_file=values.anno_file,
    )


def _only_place(named: Sequence[str], expected: str) -> str:
    if len(named) != 1 or not named[0]:
        raise UserError.expected(expected, " ".join(named) or "none", "Give one")
    return named[0]


def _classifier_options(values: SimpleNamespace, recipe: VisionConfig) -> ClassifierOptions:
    """Returns the options from `add_classifier_flags`; `recipe` supplies values not in flags."""
    device = values.device_target or recipe.run.device_target
    level = values.amp_level
    return from_flags(
        ClassifierOptions,
        values,
        checkpoint=checkpoint_of(values),
        config=config_options(values),
        precision=AMP_LEVELS[level] if level else recipe.training.precision,
        runner=from_flags(
            RunnerOptions,
            values,
            visible_devices="-1" if device == "CPU" else values.visible_devices,
        ),
    )


def _data_options(values: SimpleNamespace, place: str, recipe: VisionConfig) -> ImageDataOptions:
    workers = values.num_parallel_workers or recipe.data.num_parallel_workers
    return from_flags(ImageDataOptions, values, paths=(place,), num_parallel_workers=workers)
