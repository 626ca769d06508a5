"""Reads models to fine-tune or to export: Hugging Face folders and training runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.errors import UserError
from tools.training.checkpoint import open_checkpoint, restore
from tools.weights.folders import read_folder_weights
from tools.weights.hub import local_source
from wav2vec2.config import (
    ARCHITECTURE_FIELDS,
    ModelConfig,
    PreprocessingConfig,
    Wav2Vec2Config,
    load_config,
    read_model_config,
    read_preprocessing_config,
)
from wav2vec2.config import CONFIG_FILE as HUGGING_FACE_CONFIG_FILE
from wav2vec2.model import Wav2Vec2, build_model
from wav2vec2.vocabulary import Vocabulary
from wav2vec2.vocabulary_files import VOCABULARY_FILE, load_vocabulary
from wav2vec2.weights import WEIGHT_FILES, load_pytorch_weights

CONFIG_FILE = "config.yml"
_HEAD = "/head/"  # part of the paths of the head's variables


@dataclass(frozen=True, slots=True)
class Origin:
    """A source of trained weights, with the configuration that belongs to them.

    Attributes:
        path: a Hugging Face folder or a training checkpoint.
        model: sizes and dropout rates of the model.
        preprocessing: preprocessing of the waveforms.
        vocabulary: vocabulary of the head; None if there is no head.
    """

    path: Path
    model: ModelConfig
    preprocessing: PreprocessingConfig
    vocabulary: Vocabulary | None

    def adopted_by(self, config: Wav2Vec2Config) -> Wav2Vec2Config:
        """Returns the recipe `config` with the sizes and the preprocessing of these weights."""
        sizes = {name: getattr(self.model, name) for name in ARCHITECTURE_FIELDS}
        return replace(
            config, model=replace(config.model, **sizes), preprocessing=self.preprocessing
        )


def read_origin(path: str | Path) -> Origin:
    """Reads everything except the weights.

    Args:
        path: a Hugging Face folder, `hf:owner/name[@revision]`, a checkpoint, or a run directory,
            whose best checkpoint is read.

    Raises:
        UserError: the path is none of these, or its files cannot be downloaded or read.
    """
    path = local_source(path)
    if (path / HUGGING_FACE_CONFIG_FILE).is_file():
        sizes, vocabulary = read_model_config(path), None
        if (path / VOCABULARY_FILE).is_file():
            vocabulary = load_vocabulary(path, sizes.vocabulary_size)
        return Origin(path, sizes, read_preprocessing_config(path), vocabulary)
    if not (path / "state.json").is_file() and not any(path.glob("checkpoints/step-*")):
        raise UserError.expected(
            f"a folder with {HUGGING_FACE_CONFIG_FILE}, or the --output_dir of a training run",
            path if path.exists() else f"{path}, which does not exist",
            "Correct the path",
        )
    path = open_checkpoint(path).path
    config = load_config(path / CONFIG_FILE)
    vocabulary = load_vocabulary(path, config.model.vocabulary_size)
    return Origin(path, config.model, config.preprocessing, vocabulary)


def load_weights(model: Wav2Vec2, origin: Origin, new_head: bool = False) -> bool:
    """Loads the weights of an origin into a model. Names and shapes must match exactly.

    Args:
        model: a built model.
        origin: weights of the same architecture.
        new_head: whether the head keeps its initial values. It also keeps them if the origin has
            no head, as after pre-training.

    Returns:
        Whether the head kept its initial values.

    Raises:
        UserError: the weights cannot be read or belong to another architecture.
    """
    tensors = None
    if (origin.path / HUGGING_FACE_CONFIG_FILE).is_file():
        tensors = read_folder_weights(origin.path, WEIGHT_FILES)
        new_head = new_head or not any(name.startswith("lm_head.") for name in tensors)
    if tensors is not None:
        load_pytorch_weights(model, tensors, new_head)
        return new_head
    arrays = open_checkpoint(origin.path).weights()
    variables: dict[str, Any] = {v.path: v for v in model.weights}
    if new_head:
        variables, arrays = (
            {path: x for path, x in some.items() if _HEAD not in path}
            for some in (variables, arrays)
        )
    restore(variables, arrays, str(origin.path))
    return new_head


def from_checkpoint(path: str | Path, precision: str = "float32", **options: Any) -> Wav2Vec2:
    """Returns the model of a training run with its weights.

    Args:
        path: a checkpoint, or a run directory, whose best checkpoint is loaded.
        precision: see `wav2vec2.model.build_model`.
        **options: fields of `ModelConfig` to override, such as `mask_padding`.

    Returns:
        The model, with its `vocabulary` and `preprocessing`.

    Raises:
        UserError: there is no checkpoint, or it cannot be read.
    """
    origin = read_origin(path)
    if (origin.path / HUGGING_FACE_CONFIG_FILE).is_file():
        raise UserError.expected(
            "a training run or a training checkpoint",
            f"{path}, a Hugging Face folder",
            "Give it as --pytorch_model_dir",
        )
    model = build_model(origin.model, precision, **options)
    load_weights(model, origin)
    model.vocabulary, model.preprocessing = origin.vocabulary, origin.preprocessing
    return model
