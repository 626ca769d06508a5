"""Configurations of NeMo's Conformers: `model_config.yaml` as a `ConformerConfig`.

Sizes come from the tensors, everything else from the file. Keys that select a variant that is not
supported are refused by name.

Source: NeMo, `asr/modules/conformer_encoder.py`, `asr/modules/rnnt.py` and
`asr/modules/audio_preprocessing.py`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from conformer.published_config import COMMON, PublishedConfig, checked
from tools.config.values import show
from tools.errors import UserError

# Keys of the encoder with the supported values; the first one is the default of NeMo.
_ENCODER = {
    "self_attention_model": ("rel_pos",),
    "subsampling": ("striding", "dw_striding"),
    "subsampling_factor": (4, 8),
    "causal_downsampling": (False,),
    "att_context_style": ("regular",),
    "att_context_size": ([-1, -1], None),
    "conv_context_size": (None,),
    "conv_norm_type": ("batch_norm", "layer_norm"),
    "reduction": (None,),
    "xscaling": (True, False),
}
_NORMALIZATIONS = {"per_feature": "per_bin", "NA": "none", None: "none"}
_PREPROCESSOR = {
    "window": ("hann",),
    "log": (True,),
    "log_zero_guard_type": ("add",),
    "frame_splicing": (1,),
    "mag_power": (2.0, 2),
    "mel_norm": ("slaney",),
    "exact_pad": (False,),
    "normalize": tuple(_NORMALIZATIONS),
}
_FEATURE_KEYS = {
    "sample_rate": (16000, "features.sample_rate_hz"),
    "features": (64, "features.num_mel_bins"),
    "n_fft": (512, "features.fft_length"),
    "preemph": (0.97, "features.preemphasis"),
    "lowfreq": (0, "features.min_hz"),
    "highfreq": (None, "features.max_hz"),
}
# Suffixes that OmegaConf's `_target_` of supported encoders and front ends end with.
_TARGETS = {
    "encoder": "ConformerEncoder",
    "preprocessor": "AudioToMelSpectrogramPreprocessor",
}


def nemo_config(
    content: Mapping[str, Any], tensors: Mapping[str, np.ndarray], path: Path
) -> PublishedConfig:
    """Returns the configuration of a model in a `.nemo` archive.

    Args:
        content: content of `model_config.yaml`.
        tensors: arrays by the names of Hugging Face.
        path: the archive, for messages.

    Raises:
        UserError: the model is of another kind, or a variant that is not supported.
    """
    reader = _Sections(content, path)
    encoder, preprocessor = reader.section("encoder"), reader.section("preprocessor")
    values = sizes(tensors, path) | COMMON
    subsampling = reader.among(encoder, _ENCODER, "subsampling")
    values |= {
        "model.subsampling": subsampling,
        "model.subsampling_factor": reader.among(encoder, _ENCODER, "subsampling_factor"),
        "model.scale_input": reader.among(encoder, _ENCODER, "xscaling"),
    }
    for key in _ENCODER:
        reader.among(encoder, _ENCODER, key)
    for key in _PREPROCESSOR:
        reader.among(preprocessor, _PREPROCESSOR, key)
    for name, (default, key) in _FEATURE_KEYS.items():
        values[key] = preprocessor.get(name, default)
    normalize = reader.among(preprocessor, _PREPROCESSOR, "normalize")
    values["features.normalization"] = _NORMALIZATIONS[normalize]
    for key, name, default in (
        ("features.frame_length_ms", "window_size", 0.02),
        ("features.frame_step_ms", "window_stride", 0.01),
    ):
        seconds = preprocessor.get(name, default)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float):
            raise reader.wrong(f"seconds for preprocessor.{name}", seconds)
        values[key] = 1000 * seconds
    if values["model.transducer"]:
        joint = reader.section("joint")
        jointnet = joint.get("jointnet")
        activation = jointnet.get("activation") if isinstance(jointnet, dict) else None
        values["model.joint_activation"] = activation
        values["model.durations"] = reader.durations()
        values["decoding.max_symbols_per_frame"] = reader.max_symbols()
    names = {key: name for name, (_, key) in _FEATURE_KEYS.items()}
    names |= {"model.joint_activation": "joint.jointnet.activation"}
    vocabulary_size = _vocabulary_size(values, tensors)
    return PublishedConfig(checked(values, names, path), vocabulary_size, vocabulary_size - 1)


def sizes(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    """Returns the sizes and options of the model that follow from its tensors, by dotted key.

    Args:
        tensors: arrays by the names of Hugging Face.
        path: where the tensors come from, for messages.

    Raises:
        UserError: the tensors are not those of a Conformer with relative positions.
    """

    def shape(name: str, rank: int) -> tuple[int, ...]:
        if name not in tensors or tensors[name].ndim != rank:
            found = list(tensors[name].shape) if name in tensors else "no such tensor"
            raise UserError.expected(
                f"a tensor {name} with {rank} axes in {path}", found, "Choose a Conformer"
            )
        return tensors[name].shape

    first = "encoder.layers.0."
    hidden, _ = shape("encoder.subsampling.linear.weight", 2)
    numbers = [re.match(r"encoder\.layers\.(\d+)\.", name) for name in tensors]
    values = {
        "model.num_layers": 1 + max(int(x[1]) for x in numbers if x) if any(numbers) else 1,
        "model.hidden_dim": hidden,
        "model.num_heads": shape(f"{first}self_attn.bias_u", 2)[0],
        "model.feedforward_dim": shape(f"{first}feed_forward1.linear1.weight", 2)[0],
        "model.kernel_size": shape(f"{first}conv.depthwise_conv.weight", 3)[2],
        "model.subsampling_filters": shape("encoder.subsampling.layers.0.weight", 4)[0],
        "model.attention_bias": "all" if f"{first}self_attn.q_proj.bias" in tensors else "none",
        "model.feedforward_bias": f"{first}feed_forward1.linear1.bias" in tensors,
        "model.convolution_bias": f"{first}conv.depthwise_conv.bias" in tensors,
        "model.convolution_norm": (
            "batch" if f"{first}conv.norm.running_mean" in tensors else "layer"
        ),
        "model.transducer": "joint.head.weight" in tensors,
    }
    has_ctc = "ctc_head.weight" in tensors
    if values["model.transducer"]:
        layers = [x for x in tensors if x.startswith("decoder.lstm.weight_ih_l")]
        values |= {
            "model.prediction_dim": shape("decoder.embedding.weight", 2)[1],
            "model.prediction_layers": max(len(layers), 1),
            "model.joint_dim": shape("encoder_projector.weight", 2)[0],
            # Training with both losses; the share is that of NeMo's hybrid recipes.
            "model.ctc_weight": 0.3 if has_ctc else 0.0,
        }
    else:
        shape("ctc_head.weight", 3)
        values |= {"model.ctc_weight": 1.0, "decoding.head": "ctc"}
    return values


def _vocabulary_size(values: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> int:
    """Returns the number of symbols including the blank, which is the last one."""
    if values["model.transducer"]:
        return len(tensors["joint.head.weight"]) - len(values["model.durations"])
    return len(tensors["ctc_head.weight"])


class _Sections:
    """The sections of a `model_config.yaml`."""

    def __init__(self, content: Mapping[str, Any], path: Path):
        self._content, self._path = content, path

    def wrong(self, expected: str, received: object) -> UserError:
        """Returns the error for a value of the file."""
        return UserError.expected(
            f"{expected} in {self._path}", show(received), "Choose another model"
        )

    def section(self, name: str) -> Mapping[str, Any]:
        """Returns a section, and checks the class that it configures."""
        section = self._content.get(name)
        if not isinstance(section, dict):
            raise self.wrong(f"a section {name}", section)
        target = section.get("_target_", "")
        if name in _TARGETS and not str(target).endswith(_TARGETS[name]):
            raise self.wrong(f"{name}._target_ {_TARGETS[name]}", target)
        return section

    def among(self, section: Mapping, known: Mapping[str, tuple], name: str) -> Any:
        """Returns a value that is one of the supported ones."""
        value = section.get(name, known[name][0])
        if not any(type(value) is type(x) and value == x for x in known[name]):
            values = " or ".join(x if isinstance(x, str) else show(x) for x in known[name])
            raise self.wrong(f"{name}: {values}", value)
        return value

    def durations(self) -> list:
        """Returns the durations of a token-and-duration transducer, or an empty list."""
        for section, key in (("model_defaults", "tdt_durations"), ("decoding", "durations")):
            values = self._content.get(section)
            if isinstance(values, dict) and values.get(key):
                return values[key]
        return []

    def max_symbols(self) -> object:
        """Returns the most symbols of a frame in greedy search; 10 if the file sets none."""
        decoding = self._content.get("decoding")
        greedy = decoding.get("greedy") if isinstance(decoding, dict) else None
        return (greedy.get("max_symbols") if isinstance(greedy, dict) else None) or 10
