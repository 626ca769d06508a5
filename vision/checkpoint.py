"""Models with the weights of a file."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tools.errors import UserError
from tools.training.checkpoint import Checkpoint, open_checkpoint
from tools.weights.assignment import Link, assign, check_finite
from vision.classes import renamed
from vision.config import ModelConfig
from vision.model import ALIASES, VisionConformer, build_model
from vision.recipe import is_keras, keras_description, own_classes
from vision.weights import load_pytorch_weights

_HEADS = r".*/(convolution|transformer)_head/(kernel|bias)"


def build(config: ModelConfig, precision: str = "float32") -> VisionConformer:
    """Builds the model of a config with its initial weights."""
    return build_model(
        config.arch,
        num_classes=config.num_classes,
        precision=precision,
        dropout_rate=config.drop,
        attention_dropout_rate=config.drop_block,
        drop_path_rate=config.drop_path,
        approximate_gelu=not config.disable_approximate_gelu,
        use_pytorch_maxpool=config.use_pytorch_maxpool,
        fusion_drop_path=config.fusion_drop_path,
        zero_init_last_batch_norm=config.zero_init_last_batch_norm,
    )


def full_name(architecture: str) -> str:
    """The name of an architecture without abbreviation."""
    return ALIASES.get(architecture, architecture)


def load_model(
    config: ModelConfig,
    checkpoint: str | Path,
    precision: str = "float32",
    use_ema: bool | None = None,
) -> VisionConformer:
    """Builds a model with the weights of a checkpoint.

    Args:
        config: of the model; a `.keras` file brings its own.
        checkpoint: `.pth` or `.safetensors` of the PyTorch implementations, `.keras`, or a
            checkpoint of training or the folder of several, of which the best is taken.
        precision: Keras dtype policy; a `.keras` file brings its own.
        use_ema: whether to take averaged weights; None: of a checkpoint of training where there are
            some, of the others only where there is nothing else. A `.keras` file has no choice.

    Raises:
        UserError: it cannot be read, has no such weights, or is of another architecture or number
            of classes.
    """
    if is_keras(checkpoint):
        _check_one_kind(checkpoint, use_ema)
        return _load_keras(config, checkpoint)
    model = build(config, precision)
    if _load_weights(model, checkpoint, use_ema):
        raise UserError.expected(
            f"a checkpoint of {config.num_classes} classes", checkpoint, "Correct --num_classes"
        )
    return model


def load_pretrained(
    model: VisionConformer,
    source: str | Path,
    folders: Sequence[str],
    use_ema: bool | None = None,
) -> list[str]:
    """Gives a model weights to start training from; heads of other classes stay initial.

    Args:
        model: built.
        source: see `load_model`; a `.keras` file counts by its weights alone.
        folders: names of the classes of the model.
        use_ema: see `load_model`.

    Returns:
        Lines for the log.

    Raises:
        UserError: it cannot be read, or is of another architecture.
    """
    heads = [x for x in model.weights if re.fullmatch(_HEADS, x.path)]
    initial = [np.array(x) for x in heads]
    kept, lines = _load_weights(model, source, use_ema), [f"weights of {source}"]
    known = own_classes(source)
    other = renamed(known, folders) if known.aliases else ""
    if other and not kept:
        for variable, value in zip(heads, initial, strict=True):
            variable.assign(value)
        kept = tuple(sorted(x.path for x in heads))
    if kept:
        why = f"other classes{f' ({other})' if other else ''}"
        lines.append(f"Removing {', '.join(kept)} of it: {why}, so these start anew")
    elif not known.aliases:
        lines.append(f"It does not name its {len(folders)} classes: they count as the same")
    return lines


def _load_weights(
    model: VisionConformer, source: str | Path, use_ema: bool | None
) -> tuple[str, ...]:
    """Loads and tells the paths of the heads that were left at their initial values."""
    if Path(source).is_dir():
        arrays = _arrays_of_run(open_checkpoint(source), use_ema)
    elif is_keras(source):
        _check_one_kind(source, use_ema)
        arrays = {x.path: np.asarray(x) for x in _read_keras(source).weights}
    else:
        return load_pytorch_weights(model, source, use_ema).kept
    links = [Link(x, (x.path,)) for x in model.weights]
    return assign(model.weights, links, arrays, replaceable=_HEADS).kept


def _check_one_kind(path: str | Path, use_ema: bool | None) -> None:
    """Refuses to choose between weights of a Keras file, which has but one kind."""
    if use_ema is not None:
        raise UserError.expected(
            "use_ema with a .pth or .safetensors file or a training run",
            f"{path}, which holds one set of weights",
            "Leave use_ema out",
        )


def _arrays_of_run(checkpoint: Checkpoint, use_ema: bool | None) -> dict[str, np.ndarray]:
    if use_ema is False:
        return checkpoint.arrays("model")
    if use_ema and not checkpoint.arrays("average"):
        raise UserError.expected(
            "averaged weights (EMA)", f"{checkpoint.path} without", "Leave --use_ema out"
        )
    return checkpoint.weights()


def _load_keras(config: ModelConfig, checkpoint: str | Path) -> VisionConformer:
    model = _read_keras(checkpoint)
    if model.num_classes != config.num_classes:
        raise UserError.expected(
            f"a vision Conformer of {config.num_classes} classes",
            f"{checkpoint}: {model.num_classes}",
            "Correct --num_classes",
        )
    told = (keras_description(checkpoint) or {}).get("architecture", config.arch)
    if full_name(told) != full_name(config.arch):
        raise UserError.expected(f"--arch {told}, of {checkpoint}", config.arch, "Correct it")
    check_finite({x.path: np.asarray(x) for x in model.weights}, str(checkpoint))
    return model


def _read_keras(path: str | Path) -> VisionConformer:
    try:
        model = keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise UserError.expected(
            "a readable .keras file", f"{path}: {reason}", "Export it again"
        ) from error
    if not isinstance(model, VisionConformer):
        raise UserError.expected(
            "a vision Conformer", f"{path}: {type(model).__name__}", "Choose another file"
        )
    return model


def initial_model(config: ModelConfig, seed: int) -> VisionConformer:
    """Builds a model that has learnt nothing, and says so."""
    print(
        f"no --checkpoint: these are initial weights (seed {seed}), which recognize nothing",
        file=sys.stderr,
    )
    keras.utils.set_random_seed(seed)
    return build(config)
