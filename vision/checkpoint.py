"""Builds models with the weights of a file."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from tools.amounts import counted
from tools.errors import UserError
from tools.training.checkpoint import Checkpoint, open_checkpoint
from tools.weights.assignment import Link, assign, check_finite
from tools.weights.hub import local_source
from vision.classes import renamed
from vision.config import ModelConfig
from vision.model import ALIASES, VisionConformer, build_model
from vision.recipe import is_keras, keras_description, own_classes
from vision.weights import load_pytorch_weights

_HEADS = r".*/(convolution|transformer)_head/(kernel|bias)"


def build(config: ModelConfig, precision: str = "float32") -> VisionConformer:
    """Returns the model of a configuration with initial weights."""
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
    """Returns the full name of an architecture, which may be abbreviated."""
    return ALIASES.get(architecture, architecture)


def load_model(
    config: ModelConfig,
    checkpoint: str | Path,
    precision: str = "float32",
    use_ema: bool | None = None,
) -> VisionConformer:
    """Returns a model with the weights of a checkpoint.

    Args:
        config: configuration of the model. It is compared with the one in a `.keras` file.
        checkpoint: a `.pth` or `.safetensors` file of the PyTorch implementations, a `.keras` file,
            a training checkpoint, or a directory of training checkpoints, whose best is loaded.
        precision: Keras dtype policy. A `.keras` file has its own.
        use_ema: whether to load averaged weights (EMA). None loads the averaged weights of a
            training checkpoint if it has some, and those of a PyTorch file only if it has no
            others. Must be None for a `.keras` file, which has one set of weights.

    Raises:
        UserError: the checkpoint cannot be read, lacks the requested weights, or has another
            architecture or number of classes.
    """
    if is_keras(checkpoint):
        _check_one_kind(checkpoint, use_ema)
        return _load_keras(config, checkpoint)
    model = build(config, precision)
    if _load_weights(model, checkpoint, use_ema):
        raise UserError.expected(
            f"a checkpoint with {counted(config.num_classes, 'class')}",
            checkpoint,
            "Correct --num_classes",
        )
    return model


def load_pretrained(
    model: VisionConformer,
    source: str | Path,
    folders: Sequence[str],
    use_ema: bool | None = None,
) -> list[str]:
    """Loads pretrained weights into a model. Heads for other classes keep their initial values.

    Args:
        model: a built model.
        source: see `load_model`; also `hf:owner/name[@revision]/path`. Of a `.keras` file only
            the weights are used.
        folders: folder names of the classes of the model, in order of class number.
        use_ema: see `load_model`.

    Returns:
        Messages for the log.

    Raises:
        UserError: the source cannot be read or has another architecture.
    """
    source = local_source(source)
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
        lines.append(f"{', '.join(kept)}: not loaded, because the checkpoint has {why}")
    elif not known.aliases:
        lines.append(
            f"The checkpoint has {len(folders)} classes without names. They are assumed to be the "
            "classes of the training set, in the same order"
        )
    return lines


def _load_weights(
    model: VisionConformer, source: str | Path, use_ema: bool | None
) -> tuple[str, ...]:
    """Loads weights and returns the paths of the heads that keep their initial values."""
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
    """Raises UserError if `use_ema` is given for a Keras file, which has one set of weights."""
    if use_ema is not None:
        raise UserError.expected(
            "use_ema with a .pth or .safetensors file or a training run",
            f"{path}, which has one set of weights",
            "Leave use_ema out",
        )


def _arrays_of_run(checkpoint: Checkpoint, use_ema: bool | None) -> dict[str, np.ndarray]:
    if use_ema is False:
        return checkpoint.arrays("model")
    if use_ema and not checkpoint.arrays("average"):
        raise UserError.expected(
            "a checkpoint with averaged weights (EMA)",
            f"{checkpoint.path}, which has none",
            "Leave --use_ema out",
        )
    return checkpoint.weights()


def _load_keras(config: ModelConfig, checkpoint: str | Path) -> VisionConformer:
    model = _read_keras(checkpoint)
    if model.num_classes != config.num_classes:
        raise UserError.expected(
            f"a vision Conformer with {counted(config.num_classes, 'class')}",
            f"{checkpoint} with {counted(model.num_classes, 'class')}",
            "Correct --num_classes",
        )
    told = (keras_description(checkpoint) or {}).get("architecture", config.arch)
    if full_name(told) != full_name(config.arch):
        raise UserError.expected(
            f"--arch {told}, as in {checkpoint}", config.arch, "Correct --arch"
        )
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
            "a vision Conformer", f"{path}: {type(model).__name__}", "Select another file"
        )
    return model


def initial_model(config: ModelConfig, seed: int, precision: str = "float32") -> VisionConformer:
    """Returns an untrained model and prints a warning; for `precision` see `load_model`."""
    print(
        f"no --checkpoint: using untrained initial weights (seed {seed})",
        file=sys.stderr,
    )
    keras.utils.set_random_seed(seed)
    return build(config, precision)
