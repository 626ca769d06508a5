"""Conversion of weights and folders from and to Hugging Face's Wav2Vec2ForCTC."""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from tools.errors import UserError
from tools.files import new_folder, to_json, write_text
from tools.weights.assignment import (
    AS_IS,
    CONVOLUTION_1D,
    DENSE,
    Assignment,
    Layout,
    Link,
    assign,
    extract,
    rename,
)
from tools.weights.files import read_weights
from tools.weights.folders import read_folder_weights
from tools.weights.hub import local_source
from tools.weights.state_dict import state_dict
from wav2vec2.config import (
    CONFIG_FILE,
    PREPROCESSOR_FILE,
    PreprocessingConfig,
    hugging_face_model,
    hugging_face_preprocessing,
    read_model_config,
    read_preprocessing_config,
)
from wav2vec2.model import Wav2Vec2, build_model
from wav2vec2.vocabulary import Vocabulary
from wav2vec2.vocabulary_files import load_vocabulary, save_vocabulary

logger = logging.getLogger(__name__)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

# (pattern of the path of a variable, replacement in the name of a tensor)
_NAMES = (
    (r"^[^/]*/", ""),
    (r"^feature_encoder/block_(\d+)/(?=(kernel|bias)$)", r"feature_encoder/block_\1/convolution/"),
    # The first convolution and its group norm are one layer in this project.
    (r"^feature_encoder/block_0/(?=(gamma|beta)$)", "feature_encoder/block_0/norm/"),
    (r"/(kernel|gamma)$", "/weight"),
    (r"/beta$", "/bias"),
    (r"^head/", "lm_head/"),
    (r"^(?!lm_head/)", "wav2vec2/"),
    (r"/masking/embedding$", "/masked_spec_embed"),
    (r"/feature_encoder/block_(\d+)/convolution/", r"/feature_extractor/conv_layers/\1/conv/"),
    (r"/feature_encoder/block_(\d+)/norm/", r"/feature_extractor/conv_layers/\1/layer_norm/"),
    (r"/(feature_projection|encoder)/norm/", r"/\1/layer_norm/"),
    (r"/position/", "/pos_conv_embed/conv/"),
    (r"/conv/gain$", "/conv/weight_g"),
    (r"/conv/direction$", "/conv/weight_v"),
    (r"/encoder/block_(\d+)/", r"/encoder/layers/\1/"),
    (r"/attention_norm/", "/layer_norm/"),
    (r"/feedforward_norm/", "/final_layer_norm/"),
    (r"/attention/(q|k|v)[a-z]+/", r"/attention/\1_proj/"),
    (r"/output_projection/", "/out_proj/"),
    (r"/expansion/", "/feed_forward/intermediate_dense/"),
    (r"/contraction/", "/feed_forward/output_dense/"),
    ("/", "."),
)
# Names in files of newer versions of PyTorch and of older versions of Hugging Face.
_ALIASES = (
    (r"\.parametrizations\.weight\.original0$", ".weight_g"),
    (r"\.parametrizations\.weight\.original1$", ".weight_v"),
    (r"\.mask_time_emb_vector$", ".masked_spec_embed"),
)
_MASK_EMBEDDING = "wav2vec2.masked_spec_embed"
_GAIN = ".conv.weight_g"
_DIRECTION = ".conv.weight_v"
_HEAD = r"lm_head\.(weight|bias)"
_PRETRAINING = r"(quantizer|project_q|project_hid)\..*"
_PREFIX = "wav2vec2."  # prefix of all other names
# The norm after this convolution removes its bias. The classes of Hugging Face have it anyway.
_FIRST_BIAS = "wav2vec2.feature_extractor.conv_layers.0.conv.bias"


def load_pytorch_weights(
    model: Wav2Vec2, source: str | os.PathLike | Mapping[str, Any], new_head: bool = False
) -> Assignment:
    """Loads a state dict of Wav2Vec2ForCTC into a model.

    If the mask embedding is missing, it keeps its initial value, and a message is logged. Only
    training uses it.

    Args:
        model: a built model.
        source: `.bin`, `.pth` or `.safetensors` file, or its content: arrays by name.
        new_head: whether the head keeps its initial values, for fine-tuning with another vocabulary
            or from a model without a head. Tensors that only pre-training uses are then ignored.

    Returns:
        The assigned, kept and ignored names.

    Raises:
        UserError: the file cannot be read, or the names or shapes in it are not those of this
            architecture.
    """
    content = source if isinstance(source, Mapping) else read_weights(source)
    tensors = _tensors(content)
    _check_norm(model, tensors)
    ignored = f"{_PRETRAINING}|{_HEAD}" if new_head else r"(?!)"
    if model.config.feature_bias and model.config.feature_norm == "group":
        ignored = f"{ignored}|{re.escape(_FIRST_BIAS)}"
    links, kept = [], []
    for link in _links(model):
        name = link.keys[0]
        optional = name == _MASK_EMBEDDING and name not in tensors
        keeps = optional or (new_head and re.fullmatch(_HEAD, name))
        (kept if keeps else links).append(link)
    report = assign([x.variable for x in links], links, tensors, ignored)
    report = replace(report, kept=tuple(sorted(x.variable.path for x in kept)))
    logger.info("%d variables loaded", len(report.assigned))
    if report.kept:
        logger.info("%s: not loaded, initial values kept", ", ".join(report.kept))
    return report


def pytorch_state_dict(model: Wav2Vec2) -> dict[str, np.ndarray]:
    """Returns the weights for `load_pytorch_weights` and Wav2Vec2ForCTC as arrays by name.

    The mask embedding is left out if both mask rates are 0, as in Hugging Face.
    """
    tensors = extract(_links(model))
    if model.config.time_mask_rate == model.config.feature_mask_rate == 0:
        del tensors[_MASK_EMBEDDING]
    if model.config.feature_bias and model.config.feature_norm == "group":
        tensors[_FIRST_BIAS] = np.zeros(model.config.feature_filters[:1], np.float32)
    return tensors


def from_pretrained(
    folder: str | os.PathLike, precision: str = "float32", **options: Any
) -> Wav2Vec2:
    """Returns the model of a Hugging Face folder with its weights.

    Args:
        folder: folder with `config.json`, `vocab.json`, `preprocessor_config.json` and the weights
            in `model.safetensors` or `pytorch_model.bin`; or `hf:owner/name[@revision]`.
        precision: see `build_model`.
        **options: fields of `ModelConfig` to override, such as `mask_padding`.

    Returns:
        The model, with its `vocabulary` and `preprocessing`.

    Raises:
        UserError: a file is missing or invalid, or does not fit the other files.
    """
    folder = local_source(folder)
    config = read_model_config(folder)
    vocabulary = load_vocabulary(folder, config.vocabulary_size)
    preprocessing = read_preprocessing_config(folder)
    tensors = read_folder_weights(folder, WEIGHT_FILES)
    model = build_model(config, precision, **options)
    load_pytorch_weights(model, tensors)
    model.vocabulary, model.preprocessing = vocabulary, preprocessing
    return model


def save_pretrained(
    model: Wav2Vec2,
    folder: str | os.PathLike,
    vocabulary: Vocabulary | None = None,
    preprocessing: PreprocessingConfig | None = None,
) -> None:
    """Writes a folder that `from_pretrained` and the classes of Hugging Face read.

    Args:
        model: a built model.
        folder: folder to write. It must not exist or must be empty.
        vocabulary: vocabulary of the head; None: that of the model.
        preprocessing: preprocessing of the waveforms; None: that of the model, or if it has none,
            the usual one for its architecture.

    Raises:
        UserError: there is no vocabulary, it has another size than the head, or the folder cannot
            be written.
    """
    vocabulary = vocabulary or model.vocabulary
    if vocabulary is None or len(vocabulary) != model.config.vocabulary_size:
        raise UserError.expected(
            f"a vocabulary with {model.config.vocabulary_size} symbols",
            "none" if vocabulary is None else len(vocabulary),
            "Give the vocabulary that the model was trained with",
        )
    preprocessing = preprocessing or model.preprocessing
    if preprocessing is None:
        masked = model.config.feature_norm == "layer"
        preprocessing = PreprocessingConfig(trained_with_mask=masked)
    settings = {
        CONFIG_FILE: hugging_face_model(model.config, vocabulary.blank_id),
        PREPROCESSOR_FILE: hugging_face_preprocessing(preprocessing),
    }
    with new_folder(Path(folder)) as beside:
        for name, content in settings.items():
            write_text(beside / name, to_json(content, indent=2) + "\n")
        save_vocabulary(vocabulary, beside)
        tensors = {k: np.ascontiguousarray(x) for k, x in pytorch_state_dict(model).items()}
        try:
            # Older versions of transformers raise an error for files without this metadata.
            safetensors.numpy.save_file(tensors, beside / WEIGHT_FILES[0], {"format": "pt"})
        except safetensors.SafetensorError as error:
            raise UserError.expected(
                f"space to write {folder}", error, "Free space or select another folder"
            ) from error


def _links(model: Wav2Vec2) -> list[Link]:
    groups = model.config.position_groups
    links = []
    for variable in model.weights:
        name = rename(variable.path, _NAMES)
        layout = {2: DENSE, 3: CONVOLUTION_1D}.get(len(variable.shape), AS_IS)
        layout = _GAIN_LAYOUT if name.endswith(_GAIN) else layout
        layout = _grouped(groups) if name.endswith(_DIRECTION) else layout
        links.append(Link(variable, (name,), layout))
    return links


_GAIN_LAYOUT = Layout(lambda x: x.reshape(x.shape[2:]), lambda x: (x[None, None, :],))


def _grouped(groups: int) -> Layout:
    """Returns the layout conversion `[out, in / groups, time]` to `[groups, time, in, out]`."""

    def read(x):
        return x.reshape(groups, -1, *x.shape[1:]).transpose(0, 3, 2, 1)

    def write(x):
        x = x.transpose(0, 3, 2, 1)
        return (x.reshape(-1, *x.shape[2:]),)

    return Layout(read, write)


def _tensors(content: Any) -> dict[str, np.ndarray]:
    found = state_dict(content).tensors
    # Files of the model without a head have names without the prefix.
    bare = not any(name.startswith(_PREFIX) for name in found)
    # If the new name exists already, keep the old one, which is then reported as unexpected.
    tensors: dict[str, np.ndarray] = {}
    for name, value in found.items():
        usual = rename(name, _ALIASES)
        if bare and not re.fullmatch(f"{_HEAD}|{_PRETRAINING}", usual):
            usual = f"{_PREFIX}{usual}"
        tensors[name if usual in tensors else usual] = value
    return tensors


def _check_norm(model: Wav2Vec2, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises UserError if the weights have the other `feature_norm`.

    Without this check, the error would list all names that differ.
    """
    present = {x for x in tensors if ".conv_layers." in x and x.endswith(".layer_norm.weight")}
    received = "layer" if len(present) > 1 else "group"
    if present and len(model.config.feature_filters) > 1 and received != model.config.feature_norm:
        raise UserError.expected(
            f"weights of a model with feature_norm {model.config.feature_norm}",
            f"feature_norm {received}",
            "Select the architecture that the weights were trained with",
        )
