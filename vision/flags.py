"""The flags of this family's programs, and the options that are made of them.

Programs alone import this; what they call takes options.
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
_USE_EMA = "use_ema"  # of the config's section `run`
_DEFAULTS = VisionConfig()


def add_config_flags(flags: CommandLine, *sections: str) -> None:
    """Adds a flag for every key of some sections of the config.

    Args:
        flags: of the program; `--config` and `--set` are added as well.
        sections: of `VisionConfig`; none means the model and its input.
    """
    keys = dotted_keys(leaf_keys(VisionConfig))
    wanted = sections or MODEL_SECTIONS
    _add_key_flags(flags, [name for name in keys if keys[name].split(".")[0] in wanted])


def add_weights_flag(flags: CommandLine) -> None:
    """Adds the flag that chooses between the averaged and the other weights of a checkpoint."""
    flags.group("Model")
    flags.boolean(
        _USE_EMA,
        None,
        "Uses the averaged weights (EMA) of a checkpoint, or with --nouse_ema the other ones.",
        default_text="averaged for a run that has averages, the others for a file that has both",
    )


def add_training_flags(flags: CommandLine) -> None:
    """Adds a flag for every flat key of the config; `--config` and `--set` as well."""
    _add_key_flags(flags, flat_keys(leaf_keys(VisionConfig)))


def _add_key_flags(flags: CommandLine, names: Iterable[str]) -> None:
    """Adds a flag for each of some flat keys, with the type, the default and the choices."""
    flags.group("Config")
    flags.string("config", None, "YAML file of configs/vision.", default_text="Conformer-tiny")
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
        add(name, None, about, default_text=f"the config's, else {shown}", **options)


def add_classifier_flags(flags: CommandLine) -> None:
    """Adds the flags of all programs that classify."""
    add_inference_flags(flags, "none")
    flags.group("Model")
    flags.string(
        "checkpoint",
        None,
        "Weights to run in TensorFlow: .pth, .safetensors, .keras, or a checkpoint of training.",
        short_name="c",
        default_text="none",
    )
    about = "Another name of --checkpoint."
    flags.string("pretrained", None, about, default_text="that of the --config")
    flags.string("onnx_path", None, "ONNX file to run in ONNX Runtime.", default_text="none")
    about = "File with the names of the classes."
    flags.string("imagenet_label_file", None, about, default_text="the model's names")
    add_weights_flag(flags)
    flags.group("Runtime")
    about = "Precision of a checkpoint. O0: float32; bfloat16: bfloat16; the others: float16."
    flags.enum("amp_level", None, sorted(AMP_LEVELS), about, default_text="O0")
    devices, about = ("GPU", "CPU"), "Device; GPU means a GPU where there is one."
    flags.enum("device_target", None, devices, about, short_name="m", default_text="GPU")
    flags.integer("num_parallel_workers", 0, "Images decoded at once.", default_text="all cores")
    flags.integer("prefetch", 0, "Images read ahead.", default_text="four batches")
    add_config_flags(flags)


def config_options(values: SimpleNamespace) -> ConfigOptions:
    """Makes the options of a model's config, of the flags of `add_config_flags`."""
    names = {key.split(".")[1] for key in leaf_keys(VisionConfig) if key.startswith(_MODEL_KEYS)}
    return _config_options(values, {*names, _USE_EMA})


def training_config_options(values: SimpleNamespace) -> ConfigOptions:
    """Makes the options of a training's config, of the flags that have names of its flat keys."""
    return _config_options(values, flat_keys(leaf_keys(VisionConfig)))


def run_config_options(values: SimpleNamespace) -> ConfigOptions:
    """Makes the options of the config of `vision.train`, which goes on from `--checkpoint` exactly.

    Raises:
        UserError: `--pretrained` is named as well.
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
    """Gives the checkpoint that `--checkpoint` or `--pretrained` names; None: neither does.

    Raises:
        UserError: both do.
    """
    if values.checkpoint and values.pretrained:
        raise UserError.expected("--checkpoint or --pretrained", "both", "Leave one out")
    return values.checkpoint or values.pretrained or None


def inference_options(values: SimpleNamespace, places: Sequence[str]) -> InferenceOptions:
    """Makes the options of `vision.infer`.

    Args:
        values: its flags.
        places: an image or a folder, unless `--data_dir` names it.

    Raises:
        UserError: no place or several, or a number out of its range.
    """
    named = [*places, *([values.data_dir] if values.data_dir else [])]
    place = _only_place(named, "one image or folder")
    if values.top_k < 1:
        raise UserError.expected("--top_k >= 1", values.top_k, "Correct --top_k")
    classifier = _classifier_options(values, _DEFAULTS)
    data = _data_options(values, place, _DEFAULTS)
    return InferenceOptions(classifier, data, values.output, values.top_k)


def evaluation_options(values: SimpleNamespace, places: Sequence[str]) -> EvaluationOptions:
    """Makes the options of `vision.eval`.

    An explicit --config tells of data, precision and device what the flags leave open.

    Args:
        values: its flags.
        places: an ImageFolder, unless flags, config or environment name it.

    Raises:
        UserError: no place or several, or a number out of its range.

    Source: MindSpore's recipe, whose eval.py has the arguments of its train.py.
    """
    recipe = config_options(values).load() if values.config else _DEFAULTS
    data_url = values.data_url
    if not (places or values.data_dir or data_url):
        data_url = recipe.data.data_url or environment_path("IMAGENET_DIR")
    val_dir = values.val_dir or recipe.data.val_dir or "val"
    named = [*places, values.data_dir, data_url and str(Path(data_url) / val_dir)]
    place = _only_place([x for x in named if x], "one ImageFolder, by --data_dir or --data_url")
    return EvaluationOptions(
        _classifier_options(values, recipe),
        _data_options(values, place, recipe),
        num_samples=recipe.data.val_num_samples,
        seed=recipe.training.seed,
        analysis_dir=values.analysis_dir,
    )


def _only_place(named: Sequence[str], expected: str) -> str:
    if len(named) != 1 or not named[0]:
        raise UserError.expected(expected, " ".join(named) or "none", "Name one")
    return named[0]


def _classifier_options(values: SimpleNamespace, recipe: VisionConfig) -> ClassifierOptions:
    """Makes the options of `add_classifier_flags`; `recipe` counts where flags say nothing."""
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
