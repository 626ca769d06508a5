"""Flat keys of a recipe: the names in MindSpore's YAML files and of the flags of this family.

A recipe has either sections, like those of the other families, or flat keys. Most flat keys are
the last part of a dotted key. The flat keys of training, which differ from those of the shared
training engine, are in a table here. Error messages name the key that the user wrote, such as
`base_lr`, instead of the key of the engine, `training.schedule.peak`.
"""

import typing
from collections.abc import Collection, Mapping
from types import UnionType
from typing import Any, Literal

from tools.config.similar import replace_keys, similar_name
from tools.config.values import Mismatch, convert, show
from tools.errors import UserError

# Sections whose keys are also the flat keys.
PLAIN_SECTIONS = ("model", "preprocessing", "data", "augmentation", "run")

_TRAINING = {
    "optimizer": "optimizer.name",
    "eps": "optimizer.epsilon",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "layer_decay": "optimizer.layer_decay",
    "base_lr": "schedule.peak",
    "min_lr": "schedule.final",
    "lr_scheduler": "schedule.name",
    "lr_adjust": "schedule.decay_epochs",
    "lr_gamma": "schedule.decay_rate",
    "warmup_length": "schedule.warmup_epochs",
    "warmup_lr": "schedule.warmup_initial",
    "epochs": "num_epochs",
    "batch_size": "batch_size",
    "seed": "seed",
    "freeze": "freeze",
    "is_dynamic_loss_scale": "loss_scale.mode",
    "loss_scale": "loss_scale.initial",
    "amp_level": "precision",
    "ckpt_keep_num": "checkpoint.keep_last",
    "best_ckpt_num": "checkpoint.keep_best",
    "ckpt_save_every_step": "checkpoint.every_steps",
    "ckpt_save_every_seconds": "checkpoint.every_seconds",
    "print_loss_every": "print_every_steps",
    "summary_loss_collect_freq": "log_every_steps",
}
# Values with other names in MindSpore. If several words have the same value, the first is written.
AMP_LEVELS = {
    "O0": "float32",
    "O2": "mixed_float16",
    "O1": "mixed_float16",
    "O3": "mixed_float16",
    "bfloat16": "mixed_bfloat16",
}
_WORDS: dict[str, dict[Any, str]] = {
    "amp_level": AMP_LEVELS,
    "optimizer": {"adamw": "adamw", "adam": "adam", "momentum": "momentum", "sgd": "momentum"},
    "lr_scheduler": {
        "cosine_lr": "cosine",
        "multistep_lr": "multistep",
        "exp_lr": "exponential",
        "onecycle": "one_cycle",
        "constant_lr": "constant",
        "transformer_lr": "transformer",
    },
    "is_dynamic_loss_scale": {True: "dynamic", False: "fixed"},
}
# Numbers of the engine that can be null. They have two flat keys: a switch, and the number.
# Dotted key: (switch, number, value of the number if only the switch is set).
_SWITCHED = {
    "training.optimizer.clip_norm": ("use_clip_grad_norm", "clip_grad_norm", 1.0),
    "training.optimizer.average_decay": ("with_ema", "ema_decay", 0.9999),
}
_BETAS = ("training.optimizer.beta_1", "training.optimizer.beta_2")
# Keys that only MindSpore supports, and what to use instead.
_ABSENT = {
    "collect_input_data": "View training images with `python -m vision.show_augmentations`",
    "dump_graph": "Use --use_profiler, which traces the graph for TensorBoard",
}

# Headings of --help for keys that differ from the rest of their section.
_HEADINGS = {
    **dict.fromkeys(_ABSENT, "Runtime"),
    **dict.fromkeys(("device_target", "device_id", "device_num", "pynative_mode"), "Runtime"),
    **dict.fromkeys(("pretrained", "use_ema", "exclude_epoch_state"), "Checkpoints"),
    **dict.fromkeys(("start_epoch", "heads_loss"), "Training"),
    "num_parallel_workers": "Runtime",
    "eval_batch_size": "Evaluation",
}


def flat_keys(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the type of each flat key.

    Args:
        leaves: types by dotted key, the result of `loader.leaf_keys`.
    """
    types = {key.split(".")[1]: leaves[key] for key in leaves if _is_plain(key)}
    types |= {name: leaves[f"training.{key}"] for name, key in _TRAINING.items()}
    types |= {name: Literal[tuple(words)] for name, words in _WORDS.items()}
    types["is_dynamic_loss_scale"] = bool
    for switch, number, _ in _SWITCHED.values():
        types |= {switch: bool, number: float}
    return {**types, "beta": tuple[float, float], **dict.fromkeys(_ABSENT, bool)}


def dotted_keys(leaves: Mapping[str, Any]) -> dict[str, str]:
    """Returns the dotted key of each flat key that has exactly one; `leaves`: see `flat_keys`."""
    plain = {key.split(".")[1]: key for key in leaves if _is_plain(key)}
    return plain | {name: f"training.{key}" for name, key in _TRAINING.items()}


def describe(name: str, leaves: Mapping[str, Any]) -> str:
    """Returns the help text of a flat key."""
    if name in _ABSENT:
        return f"Only false is supported. {_ABSENT[name]}."
    for key, (switch, number, _) in _SWITCHED.items():
        if name == switch:
            return f"Turns {key} on or off."
        if name == number:
            return f"Sets {key} if it is on."
    return f"Sets {dotted_keys(leaves).get(name, ' and '.join(_BETAS))}."


def heading(name: str, leaves: Mapping[str, Any]) -> str:
    """Returns the heading of --help for a flat key, one of `command_line.HEADINGS`."""
    if name in _HEADINGS:
        return _HEADINGS[name]
    section, *rest = dotted_keys(leaves).get(name, _BETAS[0]).split(".")
    part = rest[0] if section == "training" else section
    return {
        "model": "Model",
        "preprocessing": "Preprocessing",
        "augmentation": "Augmentation",
        "data": "Input",
        "optimizer": "Optimizer",
        "schedule": "Optimizer",
        "checkpoint": "Checkpoints",
        "run": "Output",
    }.get(part, "Training")


def kind_text(kind: Any) -> str:
    """Returns a type of `flat_keys` as --help shows it: the choices, or a word such as int."""
    inner = [x for x in typing.get_args(kind) if x is not type(None)]
    if typing.get_origin(kind) is Literal:
        return "|".join(inner)
    if isinstance(kind, UnionType) and len(inner) == 1:
        return kind_text(inner[0])
    if typing.get_origin(kind) is tuple:
        return ",".join("..." if x is Ellipsis else kind_text(x) for x in inner)
    return {int: "int", float: "float"}.get(kind, "string")


def read_flat(
    given: Mapping[str, object], leaves: Mapping[str, Any], origin: str, textual: bool
) -> dict[str, object]:
    """Converts values to the types of their keys.

    Args:
        given: values by flat or dotted key.
        leaves: see `flat_keys`.
        origin: origin of the values, for error messages.
        textual: whether the values are texts, as on a command line.

    Returns:
        The converted values by the same keys.

    Raises:
        UserError: a key is unknown, or a value has the wrong type.
    """
    types = {**leaves, **flat_keys(leaves)}
    values = {}
    for key, value in given.items():
        if key not in types:
            near = similar_name(str(key), [*types])
            raise UserError.expected(
                f"a known key {origin}", key, f"Use {near}" if near else "See --help of training"
            )
        kind = types[key]
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        if kind is str and isinstance(value, int):
            value = str(value)
        try:
            values[key] = convert(value, kind, textual)
        except Mismatch as mismatch:
            raise UserError.expected(
                f"{mismatch} for {key} {origin}", show(value), f"Correct {key}"
            ) from None
    return values


def to_dotted(values: Mapping[str, object], leaves: Mapping[str, Any]) -> dict[str, object]:
    """Translates the result of `read_flat` to values by dotted key."""
    rest = dict(values)
    for key, instead in _ABSENT.items():
        if rest.pop(key, False):
            raise UserError.expected(f"{key}: false (only MindSpore has it)", "true", instead)
    dotted = {}
    for key, (switch, number, default) in _SWITCHED.items():
        on, value = rest.pop(switch, None), rest.pop(number, None)
        if on is not None or value is not None:
            dotted[key] = None if on is False else default if value is None else value
    if "beta" in rest:
        dotted |= zip(_BETAS, rest.pop("beta"), strict=True)
    names = dotted_keys(leaves)
    for key, value in rest.items():
        dotted[names.get(key, key)] = _WORDS[key][value] if key in _WORDS else value
    return dotted


def to_flat(values: Mapping[str, object]) -> dict[str, object]:
    """Translates the values of a complete config, by dotted key, to values by flat key."""
    names = {f"training.{key}": name for name, key in _TRAINING.items()}
    flat = {}
    for key, value in values.items():
        if key in _SWITCHED:
            switch, number, default = _SWITCHED[key]
            flat |= {switch: value is not None, number: default if value is None else value}
        elif key == _BETAS[0]:
            flat["beta"] = [value, values[_BETAS[1]]]
        elif key != _BETAS[1]:
            name = names.get(key) or (key.split(".")[1] if _is_plain(key) else key)
            words = {engine: word for word, engine in reversed(_WORDS.get(name, {}).items())}
            flat[name] = words.get(value, value) if words else value
    return flat


def in_flat_words(message: str, keys: Collection[str]) -> str:
    """Replaces keys of the training engine in an error message by the flat keys.

    Args:
        message: message of the engine. It names a key in full, or by its last part.
        keys: dotted keys to replace.
    """
    flat = {f"training.{key}": name for name, key in _TRAINING.items()}
    flat |= {key: number for key, (_, number, _) in _SWITCHED.items()}
    flat |= {key: f"beta[{place}]" for place, key in enumerate(_BETAS)}
    words = {}
    for key in flat.keys() & set(keys):
        words[key.removeprefix("training.")] = flat[key]
        last = key.rpartition(".")[2]
        # A last part without underscore, such as "final", can be a word of the message.
        if "_" in last or last == "epsilon":
            words[last] = flat[key]
    return replace_keys(message, words | {f"training.{key}": name for key, name in words.items()})


def _is_plain(dotted: str) -> bool:
    return dotted.partition(".")[0] in PLAIN_SECTIONS
