"""What a model is fine-tuned from or exported from: Hugging Face folders and training runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.errors import UserError
from tools.training.checkpoint import open_checkpoint, restore
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
from wav2vec2.vocabulary import VOCABULARY_FILE, Vocabulary, load_vocabulary
from wav2vec2.weights import check_vocabulary, load_pytorch_weights, read_folder_weights

CONFIG_FILE = "config.yml"
_HEAD = "/head/"  # in the path of a variable


@dataclass(frozen=True, slots=True)
class Origin:
    """Trained weights, and what they mean.

    Attributes:
        path: a Hugging Face folder, or a checkpoint of training.
        model: sizes and rates.
        preprocessing: of the sound.
        vocabulary: of the head; None where there is none.
    """

    path: Path
    model: ModelConfig
    preprocessing: PreprocessingConfig
    vocabulary: Vocabulary | None

    def adopted_by(self, config: Wav2Vec2Config) -> Wav2Vec2Config:
        """Gives a recipe the sizes and the preprocessing of these weights."""
        sizes = {name: getattr(self.model, name) for name in ARCHITECTURE_FIELDS}
        return replace(
            config, model=replace(config.model, **sizes), preprocessing=self.preprocessing
        )


def read_origin(path: str | Path) -> Origin:
    """Reads all but the weights.

    Args:
        path: a Hugging Face folder, a run directory (its best checkpoint) or a checkpoint.

    Raises:
        UserError: it is neither, or its files cannot be read.
    """
    path = Path(path)
    if (path / HUGGING_FACE_CONFIG_FILE).is_file():
        vocabulary = load_vocabulary(path) if (path / VOCABULARY_FILE).is_file() else None
        return Origin(path, read_model_config(path), read_preprocessing_config(path), vocabulary)
    if not (path / "state.json").is_file() and not any(path.glob("checkpoints/step-*")):
        raise UserError.expected(
            f"a folder with {HUGGING_FACE_CONFIG_FILE}, or the --output_dir of a training run",
            path if path.exists() else f"{path}, which does not exist",
            "Correct the path",
        )
    path = open_checkpoint(path).path
    config = load_config(path / CONFIG_FILE)
    return Origin(path, config.model, config.preprocessing, load_vocabulary(path))


def load_weights(model: Wav2Vec2, origin: Origin, new_head: bool = False) -> bool:
    """Gives a model the weights of an origin, strictly.

    Args:
        model: built.
        origin: of the same architecture.
        new_head: whether the head keeps its initial values; it does so, too, where the origin has
            none, as after pre-training.

    Returns:
        Whether it kept them.

    Raises:
        UserError: the weights cannot be read or are of another architecture.
    """
    tensors = None
    if (origin.path / HUGGING_FACE_CONFIG_FILE).is_file():
        tensors = read_folder_weights(origin.path)
        new_head = new_head or not any(name.startswith("lm_head.") for name in tensors)
    if not new_head:
        check_vocabulary(origin.path, origin.vocabulary, origin.model)
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


def from_checkpoint(path: str | Path, **options: Any) -> Wav2Vec2:
    """Builds the float32 model of a training run and loads its weights.

    Args:
        path: a run directory (its best checkpoint) or a checkpoint.
        options: fields of `ModelConfig` that are to differ, such as `mask_padding`.

    Returns:
        The model, with its `vocabulary` and `preprocessing`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    origin = read_origin(path)
    if (origin.path / HUGGING_FACE_CONFIG_FILE).is_file():
        raise UserError.expected(
            "a training run or a checkpoint of one",
            f"{path}, a Hugging Face folder",
            "Give it as --pytorch_model_dir",
        )
    model = build_model(origin.model, **options)
    load_weights(model, origin)
    model.vocabulary, model.preprocessing = origin.vocabulary, origin.preprocessing
    return model
