"""Configurations of published Conformers: `config.json` of Hugging Face as a `ConformerConfig`.

Source: transformers 5.23, `models/parakeet/configuration_parakeet.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from conformer.config import ConformerConfig, load_config
from tools.config.loader import COMMAND_LINE
from tools.config.similar import replace_keys
from tools.config.values import show
from tools.errors import UserError
from tools.weights.folders import check_mapping, read_json

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
MODEL_TYPES = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")
# Options that are the same in all published models.
COMMON = {
    "features.extractor": "nemo",
    "features.normalization": "per_bin",
    "model.convolution_norm_epsilon": 1e-5,
    "model.prediction_norm": False,
    "model.joint_prediction_bias": True,
}
_ENCODER = "encoder_config"
# Keys of `encoder_config`, their defaults, and the keys of this project.
_ENCODER_KEYS = {
    "num_hidden_layers": (24, "model.num_layers"),
    "hidden_size": (1024, "model.hidden_dim"),
    "num_attention_heads": (8, "model.num_heads"),
    "intermediate_size": (4096, "model.feedforward_dim"),
    "conv_kernel_size": (9, "model.kernel_size"),
    "subsampling_factor": (8, "model.subsampling_factor"),
    "subsampling_conv_channels": (256, "model.subsampling_filters"),
    "scale_input": (True, "model.scale_input"),
    "convolution_bias": (True, "model.convolution_bias"),
    "attention_bias": (True, "model.feedforward_bias"),
    "num_mel_bins": (80, "features.num_mel_bins"),
}
_ENCODER_FIXED = {"hidden_act": "silu", "subsampling_conv_kernel_size": 3} | {
    "subsampling_conv_stride": 2
}
_TRANSDUCER_KEYS = {
    "decoder_hidden_size": (640, "model.prediction_dim"),
    "num_decoder_layers": (2, "model.prediction_layers"),
    "hidden_act": ("relu", "model.joint_activation"),
    "max_symbols_per_step": (10, "decoding.max_symbols_per_frame"),
}
_FEATURE_KEYS = {
    "sampling_rate": (16000, "features.sample_rate_hz"),
    "n_fft": (512, "features.fft_length"),
    "preemphasis": (0.97, "features.preemphasis"),
}


class PublishedConfig(NamedTuple):
    """Configuration of a published model.

    Attributes:
        config: sizes and options of the model and its front end.
        vocabulary_size: number of symbols V, including the blank.
        blank: index of the blank among the published symbols.
    """

    config: ConformerConfig
    vocabulary_size: int
    blank: int


def read_published_config(folder: Path) -> PublishedConfig:
    """Reads `config.json` and the feature extractor of a Hugging Face folder.

    Args:
        folder: folder of a model with one of `MODEL_TYPES`. Missing keys have the defaults of
            transformers.

    Raises:
        UserError: a file is missing or invalid, or describes a model that is not supported.
    """
    path = folder / CONFIG_FILE
    content = read_json(path)
    kind = content.get("model_type")
    if kind not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise UserError.expected(
            f"model_type {known} in {path}",
            f"{show(kind)}, a streaming model" if kind == "nemotron_asr_streaming" else show(kind),
            "Choose a model of one of these types",
        )
    encoder = content.get(_ENCODER, {})
    check_mapping(encoder, path)
    for key, value in _ENCODER_FIXED.items():
        if encoder.get(key, value) != value:
            raise UserError.expected(
                f"{key} {value} in {path}", show(encoder[key]), "Choose another model"
            )
    reader = _Reader(path)
    reader.read(encoder, _ENCODER_KEYS)
    values = reader.values | COMMON
    values["model.subsampling"] = "dw_striding"
    values["model.attention_bias"] = "all" if encoder.get("attention_bias", True) else "none"
    is_ctc = kind == "parakeet_ctc"
    if is_ctc:
        size, blank = reader.integer(content, "vocab_size", 1025), "pad_token_id"
        values |= {"model.transducer": False, "model.ctc_weight": 1.0, "decoding.head": "ctc"}
    else:
        size, blank = reader.integer(content, "vocab_size", 8193), "blank_token_id"
        reader.values.clear()
        reader.read(content, _TRANSDUCER_KEYS)
        values |= reader.values
        values["model.joint_dim"] = values["model.prediction_dim"]
    if kind == "parakeet_tdt":
        values["model.durations"] = content.get("durations", [0, 1, 2, 3, 4])
        reader.keys["model.durations"] = "durations"
    blank_id = reader.integer(content, blank, size - 1)
    if not 0 <= blank_id < size:
        raise UserError.expected(
            f"{blank} below vocab_size {size} in {path}", blank_id, "Correct the file"
        )
    values |= _features(folder, reader, values["features.num_mel_bins"])
    return PublishedConfig(checked(values, reader.keys, path), size, blank_id)


def checked(values: Mapping[str, Any], keys: Mapping[str, str], path: Path) -> ConformerConfig:
    """Returns the configuration with values by dotted key.

    Args:
        values: values of a `ConformerConfig`; the others have their defaults.
        keys: names of the keys in the file, by dotted key, for messages.
        path: file from which the values come.

    Raises:
        UserError: a value has the wrong type or is out of range.
    """
    try:
        return load_config(None, values)
    except UserError as error:
        names = {**keys, **{key.rpartition(".")[2]: name for key, name in keys.items()}}
        line = replace_keys(str(error), names).replace(COMMAND_LINE, f"in {path}")
        raise UserError(line if str(path) in line else f"{path}: {line}") from error


class _Reader:
    """Collects the values of a file by the keys of this project."""

    def __init__(self, path: Path):
        self._path = path
        self.values: dict[str, Any] = {}
        self.keys: dict[str, str] = {}

    def read(self, content: Mapping, known: Mapping[str, tuple[Any, str]]) -> None:
        """Takes values of a section, or their defaults."""
        for name, (default, key) in known.items():
            self.values[key], self.keys[key] = content.get(name, default), name

    def integer(self, content: Mapping, name: str, default: int) -> int:
        """Returns an integer of at least 2, or at least 0 for an index."""
        value = content.get(name, default)
        if type(value) is not int or value < (2 if name == "vocab_size" else 0):
            raise UserError.expected(
                f"a number for {name} in {self._path}", show(value), "Correct the file"
            )
        return value


def _features(folder: Path, reader: _Reader, num_mel_bins: object) -> dict[str, Any]:
    """Returns the values of the feature extractor; without its files, its defaults."""
    path, content = folder / PROCESSOR_FILE, {}
    if path.exists():
        content = read_json(path).get("feature_extractor", {})
        check_mapping(content, path)
    if not content and (folder / PREPROCESSOR_FILE).exists():
        path = folder / PREPROCESSOR_FILE
        content = read_json(path)
    if content.get("feature_size", num_mel_bins) != num_mel_bins:
        raise UserError.expected(
            f"feature_size {num_mel_bins} in {path}, the num_mel_bins of {CONFIG_FILE}",
            show(content["feature_size"]),
            "Correct one of the files",
        )
    reader.values.clear()
    reader.read(content, _FEATURE_KEYS)
    rate = reader.integer(content, "sampling_rate", 16000)
    samples = {"frame_length_ms": ("win_length", 400), "frame_step_ms": ("hop_length", 160)}
    for key, (name, default) in samples.items():
        length = reader.integer(content, name, default)
        reader.values[f"features.{key}"] = 1000 * length / max(rate, 1)
        reader.keys[f"features.{key}"] = name
    return dict(reader.values)
