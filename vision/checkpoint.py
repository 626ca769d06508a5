"""Models with the weights of a file."""

import sys
from pathlib import Path

import keras

from tools.errors import UserError
from vision.config import ModelConfig
from vision.model import ALIASES, VisionConformer, build_model
from vision.weights import load_pytorch_weights


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
        checkpoint: `.pth` or `.safetensors` of the PyTorch implementations, or `.keras`.
        precision: Keras dtype policy; a `.keras` file brings its own.

    Raises:
        UserError: it cannot be read, or is of another architecture or number of classes.
    """
    if Path(checkpoint).suffix == ".keras":
        return _load_keras(config, checkpoint)
    model = build(config, precision)
    if load_pytorch_weights(model, checkpoint).kept:
        raise UserError.expected(
            f"a checkpoint of {config.num_classes} classes", checkpoint, "Correct --num_classes"
        )
    return model


def _load_keras(config: ModelConfig, checkpoint: str | Path) -> VisionConformer:
    try:
        model = keras.saving.load_model(checkpoint, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError.expected(
            "a readable .keras file", f"{checkpoint}: {reason}", "Export it again"
        ) from error
    if not isinstance(model, VisionConformer) or model.num_classes != config.num_classes:
        received = getattr(model, "num_classes", type(model).__name__)
        raise UserError.expected(
            f"a vision Conformer of {config.num_classes} classes",
            f"{checkpoint}: {received}",
            "Correct --num_classes",
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
