"""Models with the weights of a file."""

import sys
from pathlib import Path

import keras
import numpy as np

from tools.errors import UserError
from tools.training.checkpoint import open_checkpoint
from tools.weights.assignment import Link, assign
from vision.config import ModelConfig
from vision.model import ALIASES, VisionConformer, build_model
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
    config: ModelConfig, checkpoint: str | Path, precision: str = "float32"
) -> VisionConformer:
    """Builds a model with the weights of a checkpoint.

    Args:
        config: of the model; a `.keras` file brings its own.
        checkpoint: `.pth` or `.safetensors` of the PyTorch implementations, `.keras`, or a
            checkpoint of training or the folder of several, of which the best is taken.
        precision: Keras dtype policy; a `.keras` file brings its own.

    Raises:
        UserError: it cannot be read, or is of another architecture or number of classes.
    """
    if Path(checkpoint).suffix == ".keras":
        return _load_keras(config, checkpoint)
    model = build(config, precision)
    if _load_weights(model, checkpoint):
        raise UserError.expected(
            f"a checkpoint of {config.num_classes} classes", checkpoint, "Correct --num_classes"
        )
    return model


def load_pretrained(model: VisionConformer, source: str | Path) -> list[str]:
    """Gives a model weights to start training from; heads of other classes stay initial.

    Args:
        model: built.
        source: see `load_model`; a `.keras` file counts by its weights alone.

    Returns:
        Lines for the log.

    Raises:
        UserError: it cannot be read, or is of another architecture.
    """
    kept = _load_weights(model, source)
    lines = [f"weights of {source}"]
    if kept:
        lines.append(f"Removing {', '.join(kept)} of it: other classes, so these start anew")
    return lines


def _load_weights(model: VisionConformer, source: str | Path) -> tuple[str, ...]:
    """Loads and tells the paths of the heads that were left at their initial values."""
    if Path(source).suffix != ".keras" and not Path(source).is_dir():
        return load_pytorch_weights(model, source).kept
    if Path(source).is_dir():
        checkpoint = open_checkpoint(source)
        arrays = checkpoint.weights()
    else:
        arrays = {x.path: np.asarray(x) for x in _read_keras(source).weights}
    links = [Link(x, (x.path,)) for x in model.weights]
    return assign(model.weights, links, arrays, replaceable=_HEADS).kept


def _load_keras(config: ModelConfig, checkpoint: str | Path) -> VisionConformer:
    model = _read_keras(checkpoint)
    if model.num_classes != config.num_classes:
        raise UserError.expected(
            f"a vision Conformer of {config.num_classes} classes",
            f"{checkpoint}: {model.num_classes}",
            "Correct --num_classes",
        )
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
