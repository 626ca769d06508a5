"""Published Conformers: reads Hugging Face folders and `.nemo` archives, with their weights."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conformer.config import ConformerConfig
from conformer.model import ConformerTransducer, build_model
from conformer.nemo_archive import SUFFIX, NemoArchive, open_nemo
from conformer.nemo_config import nemo_config
from conformer.piece_tokenizer import TOKENIZER_FILE, read_pieces
from conformer.published_config import CONFIG_FILE, read_published_config
from conformer.published_weights import NEMO_NAMES, load_published_weights
from conformer.tokenizer import SentencePieceTokenizer, Tokenizer
from tools.errors import UserError
from tools.training.checkpoint import Checkpoint, open_checkpoint
from tools.weights.assignment import rename
from tools.weights.folders import read_folder_weights
from tools.weights.hub import local_source

WEIGHT_FILES = ("model.safetensors",)
_PUBLISHED = (CONFIG_FILE, "*.safetensors")  # what a folder of Hugging Face contains, a run not


class Published(NamedTuple):
    """A published model before it is built.

    Attributes:
        config: its configuration.
        tokenizer: its vocabulary, with the blank as symbol 0.
        tensors: arrays by the names of Hugging Face.
        blank: index of the blank in the tensors.
        source: folder or archive.
    """

    config: ConformerConfig
    tokenizer: Tokenizer
    tensors: Mapping[str, np.ndarray]
    blank: int
    source: Path

    def build(self, precision: str = "float32") -> ConformerTransducer:
        """Returns the model with its weights.

        Args:
            precision: see `conformer.model.build_model`.

        Raises:
            UserError: tensors are missing, unexpected, of another shape, or not finite.
        """
        model = build_model(self.config, self.tokenizer.vocabulary_size, precision)
        self.load_into(model)
        return model

    def load_into(self, model: ConformerTransducer, *, new_vocabulary: bool = False) -> None:
        """Assigns the weights to a built model of the same architecture.

        Args:
            model: a built model.
            new_vocabulary: whether the model has another vocabulary. The embedding and the output
                layers then keep their initial values.

        Raises:
            UserError: tensors are missing, unexpected, of another shape, or not finite.
        """
        try:
            load_published_weights(model, self.tensors, self.blank, new_vocabulary=new_vocabulary)
        except UserError as error:
            raise UserError(f"{self.source}: {error}") from error

    def training_config(self, config: ConformerConfig) -> ConformerConfig:
        """Returns the configuration of a fine-tuning run.

        Args:
            config: configuration of the user. Its features, its model (except the dropout rate)
                and the part that is decoded are replaced by those of the published model.
        """
        dropout_rate = config.model.dropout_rate
        return replace(
            config,
            features=self.config.features,
            model=replace(self.config.model, dropout_rate=dropout_rate),
            decoding=replace(config.decoding, head=self.config.decoding.head),
        )


def open_source(source: str | Path) -> Published | Checkpoint:
    """Opens weights to export or to train: those of a training run, or a published model.

    Args:
        source: training checkpoint or run directory; or a published model: a folder of Hugging
            Face, a `.nemo` archive, or `hf:owner/name[@revision]`.

    Raises:
        UserError: the source does not exist, cannot be downloaded or read, or is a model that is
            not supported.
    """
    path = local_source(source)
    if path.suffix == SUFFIX or any(any(path.glob(name)) for name in _PUBLISHED):
        return read_published(path)
    found = "does not exist" if not path.exists() else "is a file" if path.is_file() else None
    if found or not any(path.iterdir()):
        raise UserError.expected(
            "a training run, a checkpoint, a folder of Hugging Face, a .nemo archive or "
            "hf:owner/name",
            f"{path}, which {found or 'is an empty folder'}",
            "Correct the path, or write hf: before the name of a repository",
        )
    return open_checkpoint(path)


def read_published(source: str | Path) -> Published:
    """Reads a published model.

    Args:
        source: folder of Hugging Face (model_type parakeet_ctc, parakeet_rnnt or parakeet_tdt), or
            a `.nemo` archive of a Conformer or FastConformer.

    Raises:
        UserError: the source is neither, is damaged, or is a model that is not supported.
    """
    source = Path(source)
    if source.is_dir():
        if not (source / CONFIG_FILE).exists():
            raise UserError.expected(
                f"{CONFIG_FILE} in {source}, a folder of Hugging Face",
                "no such file",
                "Give the folder of a model, or a .nemo archive",
            )
        config, size, blank = read_published_config(source)
        tokenizer: Tokenizer = read_pieces(source / TOKENIZER_FILE, size, blank)
        tensors = read_folder_weights(source, WEIGHT_FILES)
        return Published(config, tokenizer, tensors, blank, source)
    with open_nemo(source) as archive:
        content = archive.config()
        tensors = {rename(name, NEMO_NAMES): x for name, x in archive.weights().items()}
        config, size, blank = nemo_config(content, tensors, source)
        return Published(config, _nemo_tokenizer(archive, content, size), tensors, blank, source)


def _nemo_tokenizer(archive: NemoArchive, content: Mapping[str, Any], size: int) -> Tokenizer:
    """Returns the SentencePiece tokenizer of an archive.

    Raises:
        UserError: the archive has another kind of tokenizer, or one for another number of symbols.
    """
    section = content.get("tokenizer")
    kind = section.get("type") if isinstance(section, dict) else None
    if kind != "bpe":
        raise UserError.expected(
            f"tokenizer.type: bpe in {archive.path}", repr(kind)[:80], "Choose another model"
        )
    try:
        tokenizer = SentencePieceTokenizer(archive.pointed(section.get("model_path")))
    except ValueError as error:
        raise UserError.expected(
            f"a tokenizer in {archive.path}", error, "Choose another model"
        ) from error
    if tokenizer.vocabulary_size != size:
        raise UserError.expected(
            f"a tokenizer for {size} symbols with the blank in {archive.path}",
            tokenizer.vocabulary_size,
            "Download the file again",
        )
    return tokenizer
