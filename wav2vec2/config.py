"""Configuration of wav2vec 2.0, and conversion from and to the JSON files of Hugging Face."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from tools.config.loader import load
from tools.config.values import Mismatch, convert, show
from tools.errors import UserError
from tools.ranges import check_ranges, number
from tools.speech.config import SPEECH_METRICS, DataConfig, WaveformAugmentConfig
from tools.training.config import LossScaleConfig, TrainingConfig, check_best_metric
from tools.weights.folders import check_mapping, read_json

Section = TypeVar("Section")

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"  # contains the preprocessor config since transformers 5
MODEL_TYPE = "wav2vec2"
RATES_HZ = (4000, 384000)  # sample rates that `tools.speech.audio` accepts
MAX_SIZE = 1 << 16  # of any dimension; a larger value is a typing error and would fill the memory


def _size(default: int | tuple[int, ...]) -> Any:
    return number(default, at_least=1, at_most=MAX_SIZE)


def _rate(default: float) -> Any:
    return number(default, at_least=0, below=1)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes, dropout rates and masks of the model. The defaults are those of wav2vec 2.0 base."""

    # group: group norm after the first convolution; layer: layer norm after each convolution.
    feature_norm: Literal["group", "layer"] = "group"
    feature_bias: bool = False
    feature_filters: tuple[int, ...] = _size((512,) * 7)
    feature_kernel_sizes: tuple[int, ...] = _size((10, 3, 3, 3, 3, 2, 2))
    feature_strides: tuple[int, ...] = _size((5, 2, 2, 2, 2, 2, 2))
    num_layers: int = _size(12)
    hidden_dim: int = _size(768)
    num_heads: int = _size(12)
    feedforward_dim: int = _size(3072)
    pre_norm: bool = False  # true: layer norm before attention and feed-forward, false: after
    position_kernel_size: int = _size(128)
    position_groups: int = _size(16)
    layer_norm_epsilon: float = number(1e-5, above=0, at_most=1)
    vocabulary_size: int = number(32, at_least=2)  # including the blank
    # true: padding is masked in norms, convolutions and attention, so that the logits of an
    # utterance do not depend on its batch. false: padding is processed like sound, as in the
    # training of the checkpoints with group norm and in other implementations.
    mask_padding: bool = True
    feature_dropout_rate: float = _rate(0.0)
    dropout_rate: float = _rate(0.1)
    attention_dropout_rate: float = _rate(0.1)
    activation_dropout_rate: float = _rate(0.1)
    head_dropout_rate: float = _rate(0.1)
    layer_drop_rate: float = _rate(0.1)
    time_mask_rate: float = _rate(0.05)  # fraction of masked frames if masks did not overlap
    time_mask_frames: int = _size(10)
    min_time_masks: int = number(2, at_least=0)
    feature_mask_rate: float = _rate(0.0)
    feature_mask_channels: int = _size(10)
    min_feature_masks: int = number(0, at_least=0)

    def validate(self) -> None:
        """Checks that the sizes fit together; raises UserError otherwise."""
        stages = (self.feature_filters, self.feature_kernel_sizes, self.feature_strides)
        if not stages[0] or len({len(x) for x in stages}) > 1:
            raise UserError.expected(
                "feature_filters, feature_kernel_sizes and feature_strides of the same length",
                " ".join(str(list(x)) for x in stages),
                "Correct the model section",
            )
        divided = (self.num_heads, self.position_groups)
        if any(self.hidden_dim % x for x in divided):
            raise UserError.expected(
                "a hidden_dim that is a multiple of num_heads and of position_groups",
                f"{self.hidden_dim}, {self.num_heads} and {self.position_groups}",
                "Change one of them",
            )
        if self.feature_mask_rate > 0 and self.feature_mask_channels > self.hidden_dim:
            raise UserError.expected(
                f"feature_mask_channels up to hidden_dim, {self.hidden_dim}",
                self.feature_mask_channels,
                "Lower feature_mask_channels, or set feature_mask_rate to 0",
            )

    @property
    def hop_samples(self) -> int:
        """Distance between two frames in samples."""
        return math.prod(self.feature_strides)

    @property
    def receptive_field_samples(self) -> int:
        """Number of samples that a frame depends on; shorter sounds have no frames."""
        samples = 1
        for kernel_size, stride in reversed(
            list(zip(self.feature_kernel_sizes, self.feature_strides, strict=True))
        ):
            samples = (samples - 1) * stride + kernel_size
        return samples

    def num_frames(self, num_samples: int) -> int:
        """Returns the number of frames (and logits) of a sound with `num_samples` samples."""
        return max(0, (num_samples - self.receptive_field_samples) // self.hop_samples + 1)


@dataclass(frozen=True, slots=True)
class PreprocessingConfig:
    """Preprocessing of recordings."""

    sample_rate_hz: int = number(16000, at_least=RATES_HZ[0], at_most=RATES_HZ[1])
    normalize: bool = True  # normalize each utterance to zero mean and unit variance
    variance_epsilon: float = number(1e-7, above=0, at_most=1)
    # Longest sound for one call. Memory of attention grows with the square of the length.
    max_seconds: float = number(35.0, above=0)
    # Whether the model was trained with masked padding (return_attention_mask in Hugging Face).
    trained_with_mask: bool = False


@dataclass(frozen=True, slots=True)
class VocabularyConfig:
    """The vocabulary for fine-tuning."""

    # letters: the characters of the training transcripts. pretrained: the vocabulary of the
    # pretrained model, or letters if it has none.
    source: Literal["pretrained", "letters"] = "pretrained"
    folder: str = ""  # folder with a vocab.json to use instead of source


def _fine_tuning() -> TrainingConfig:
    """Returns the training defaults for fine-tuning.

    The convolutions of the feature encoder are frozen. The initial loss scale is low, because the
    CTC loss is a sum over frames and has large gradients in float16.
    """
    return TrainingConfig(freeze=("feature_encoder",), loss_scale=LossScaleConfig(initial=16.0))


@dataclass(frozen=True, slots=True)
class Wav2Vec2Config:
    """Configuration of a model, its preprocessing and its training.

    If training starts from a Hugging Face folder or from an earlier run, sizes and preprocessing
    come from there. Dropout and mask rates come from this configuration, and `vocabulary_size` from
    the vocabulary.
    """

    data: DataConfig = field(default_factory=DataConfig)
    waveform_augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)
    vocabulary: VocabularyConfig = field(default_factory=VocabularyConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=_fine_tuning)

    def validate(self) -> None:
        """Checks keys of different sections against each other.

        Raises:
            UserError: evaluation does not compute the metric that selects the best checkpoint, or
                rematerialized blocks would be skipped by LayerDrop.
        """
        check_best_metric(self.training, SPEECH_METRICS)
        # TensorFlow 2.16 cannot compute blocks again inside a branch of `tf.cond`.
        if self.training.rematerialize == "blocks" and self.model.layer_drop_rate > 0:
            raise UserError.expected(
                "model.layer_drop_rate: 0 with training.rematerialize: blocks",
                self.model.layer_drop_rate,
                "Set one of them to 0 or none",
            )


# Fields of `ModelConfig` that determine shapes and use of the weights.
ARCHITECTURE_FIELDS = tuple(
    "feature_norm feature_bias feature_filters feature_kernel_sizes feature_strides num_layers "
    "hidden_dim num_heads feedforward_dim pre_norm position_kernel_size position_groups "
    "layer_norm_epsilon".split()
)

_LARGE = ModelConfig(num_layers=24, hidden_dim=1024, num_heads=16, feedforward_dim=4096)
ARCHITECTURES: dict[str, ModelConfig] = {
    "base": ModelConfig(),
    "large": _LARGE,
    "large-lv60": replace(_LARGE, feature_norm="layer", feature_bias=True, pre_norm=True),
}

# Field of ModelConfig: key in config.json.
_MODEL_KEYS = {
    "feat_extract_norm": "feature_norm",
    "conv_bias": "feature_bias",
    "conv_dim": "feature_filters",
    "conv_kernel": "feature_kernel_sizes",
    "conv_stride": "feature_strides",
    "num_hidden_layers": "num_layers",
    "hidden_size": "hidden_dim",
    "num_attention_heads": "num_heads",
    "intermediate_size": "feedforward_dim",
    "do_stable_layer_norm": "pre_norm",
    "num_conv_pos_embeddings": "position_kernel_size",
    "num_conv_pos_embedding_groups": "position_groups",
    "layer_norm_eps": "layer_norm_epsilon",
    "vocab_size": "vocabulary_size",
    "feat_proj_dropout": "feature_dropout_rate",
    "hidden_dropout": "dropout_rate",
    "attention_dropout": "attention_dropout_rate",
    "activation_dropout": "activation_dropout_rate",
    "final_dropout": "head_dropout_rate",
    "layerdrop": "layer_drop_rate",
    "mask_time_prob": "time_mask_rate",
    "mask_time_length": "time_mask_frames",
    "mask_time_min_masks": "min_time_masks",
    "mask_feature_prob": "feature_mask_rate",
    "mask_feature_length": "feature_mask_channels",
    "mask_feature_min_masks": "min_feature_masks",
}
# Keys with the only supported value. Other values require layers that do not exist here.
_MODEL_FIXED = {
    "model_type": MODEL_TYPE,
    "feat_extract_activation": "gelu",
    "hidden_act": "gelu",
    "add_adapter": False,
    "adapter_attn_dim": None,
}
_PREPROCESSING_KEYS = {
    "sampling_rate": "sample_rate_hz",
    "do_normalize": "normalize",
    "return_attention_mask": "trained_with_mask",
}
_OFF_BY_NULL = ("do_normalize", "return_attention_mask")
_PREPROCESSING_FIXED = {"feature_size": 1, "padding_side": "right", "padding_value": 0.0}


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, object] | None = None
) -> Wav2Vec2Config:
    """Returns the configuration in a YAML file.

    Args:
        path: YAML file; None returns the defaults (base).
        overrides: values by dotted key, such as `{"model.vocabulary_size": 40}`. They take
            precedence over the file.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or is out of range. The message
            names the key, and for an unknown key the most similar valid one.
    """
    return load(Wav2Vec2Config, path, overrides or {})


def model_config(
    architecture: str | ModelConfig | Mapping[str, Any] = "base", **changes: Any
) -> ModelConfig:
    """Returns the configuration of an architecture.

    Args:
        architecture: a name in `ARCHITECTURES`, a `ModelConfig`, or fields that differ from base.
        **changes: further fields of `ModelConfig`.

    Raises:
        UserError: the architecture or a field is unknown, or the sizes do not fit together.
    """
    known = ARCHITECTURES.get(architecture) if isinstance(architecture, str) else architecture
    if known is None:
        names = ", ".join(ARCHITECTURES)
        raise UserError.expected(f"one of {names}", architecture, "Correct the architecture")
    if isinstance(known, Mapping):
        known, changes = ModelConfig(), {**known, **changes}
    return load(
        ModelConfig, None, {x.name: getattr(known, x.name) for x in fields(known)} | changes
    )


def read_model_config(folder: str | Path) -> ModelConfig:
    """Reads the `config.json` of a Hugging Face folder. Missing keys have the values of base.

    Raises:
        UserError: the file is missing or invalid, or describes a model that is not supported.
    """
    path = Path(folder) / CONFIG_FILE
    content = read_json(path)
    if content.get("apply_spec_augment") is False:
        content |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    return _renamed_back(ModelConfig, content, path, _MODEL_KEYS, fixed=_MODEL_FIXED)


def read_preprocessing_config(folder: str | Path) -> PreprocessingConfig:
    """Reads `preprocessor_config.json`, or else `processor_config.json`, of a Hugging Face folder.

    Raises:
        UserError: both files are missing, or describe preprocessing that is not supported.
    """
    path = Path(folder) / PREPROCESSOR_FILE
    combined = path.with_name(PROCESSOR_FILE)
    if combined.exists() and not path.exists():
        path, content = combined, read_json(combined).get("feature_extractor", {})
        check_mapping(content, path)
    else:
        content = read_json(path)
    keys, fixed = _PREPROCESSING_KEYS, _PREPROCESSING_FIXED
    # In Hugging Face, null means false for these keys.
    content |= {x: False for x in _OFF_BY_NULL if x in content and content[x] is None}
    return _renamed_back(PreprocessingConfig, content, path, keys, fixed=fixed)


def hugging_face_model(config: ModelConfig, blank_id: int) -> dict[str, Any]:
    """Returns the content of `config.json` for Hugging Face.

    Args:
        config: configuration of the model.
        blank_id: id of the blank, the padding symbol of labels in Hugging Face.
    """
    return {
        "architectures": ["Wav2Vec2ForCTC"],
        **_MODEL_FIXED,
        **_renamed(config, _MODEL_KEYS),
        "num_feat_extract_layers": len(config.feature_filters),
        "pad_token_id": blank_id,
    }


def hugging_face_preprocessing(config: PreprocessingConfig) -> dict[str, Any]:
    """Returns the content of `preprocessor_config.json` for Hugging Face."""
    return {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        **_PREPROCESSING_FIXED,
        **_renamed(config, _PREPROCESSING_KEYS),
    }


def _renamed(config, keys: Mapping[str, str]) -> dict[str, Any]:
    values = {key: getattr(config, name) for key, name in keys.items()}
    return {k: list(x) if isinstance(x, tuple) else x for k, x in values.items()}


def _renamed_back(
    section: type[Section],
    content: Mapping[str, Any],
    path: Path,
    keys: Mapping[str, str],
    *,
    fixed: Mapping[str, Any],
) -> Section:
    for key, value in fixed.items():
        if content.get(key, value) != value:
            raise UserError.expected(
                f"{key} {show(value)} in {path}", show(content[key]), "Select another model"
            )
    kinds, values = get_type_hints(section), {}
    for key in keys.keys() & content.keys():
        try:
            values[keys[key]] = convert(content[key], kinds[keys[key]], textual=False)
        except Mismatch as mismatch:
            raise UserError.expected(
                f"{mismatch} for {key} in {path}", show(content[key]), f"Correct {key}"
            ) from None
    config = section(**values)
    check_ranges(config)
    if hasattr(config, "validate"):
        config.validate()
    return config
