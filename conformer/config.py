"""Configuration of the speech Conformer: one frozen dataclass for each section of its YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tools.config.loader import load
from tools.errors import UserError
from tools.speech.config import DataConfig
from tools.training.config import TrainingConfig


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """Arguments of `features.LogMelSpectrogram`."""

    sample_rate_hz: int = 16000
    frame_length_ms: float = 25.0
    frame_step_ms: float = 10.0
    fft_length: int = 512
    num_mel_bins: int = 80
    min_hz: float = 0.0
    max_hz: float | None = None
    preemphasis: float = 0.97
    top_db: float = 80.0
    normalization: Literal["utterance", "loud_frames"] = "utterance"
    loud_frames_db: float = 35.0
    remove_dc_offset: bool = False


@dataclass(frozen=True, slots=True)
class SpecAugmentConfig:
    """Arguments of `features.SpecAugment`."""

    num_time_masks: int = 10
    max_time_mask_frames: int = 100
    max_time_mask_share: float = 0.05
    num_frequency_masks: int = 1
    max_frequency_mask_bins: int = 27


@dataclass(frozen=True, slots=True)
class WaveformAugmentConfig:
    """Changes of the training waveform, drawn anew for every utterance and epoch."""

    max_speed_change: float = 0.0  # 0.1: speed factors from 0.9 to 1.1
    noise_probability: float = 0.0
    min_noise_snr_db: float = 10.0
    max_noise_snr_db: float = 40.0


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Which symbols the model writes."""

    kind: Literal["characters", "sentencepiece"] = "characters"
    vocabulary_size: int = 1000  # sentencepiece only
    vocabulary_file: str = ""  # empty: made from the training transcripts


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of the transducer; the defaults are Conformer-S."""

    num_layers: int = 16
    hidden_dim: int = 144
    num_heads: int = 4
    kernel_size: int = 32
    feedforward_multiplier: int = 4
    subsampling_filters: int | None = None  # null: hidden_dim
    dropout_rate: float = 0.1
    prediction_dim: int = 320
    joint_dim: int = 320
    # Weight of a CTC loss on the encoder beside the transducer's: small corpora align with it much
    # sooner. Its head is trained along and left out of exports; 0 makes none.
    ctc_weight: float = 0.0

    def validate(self) -> None:
        """Checks that the heads divide the width and that sinusoids come in pairs."""
        if self.hidden_dim % self.num_heads or self.hidden_dim % 2:
            raise UserError.expected(
                "model.hidden_dim even and a multiple of model.num_heads",
                f"{self.hidden_dim} and {self.num_heads}",
                "Change one of them",
            )
        sizes = (self.feedforward_multiplier, self.prediction_dim, self.joint_dim)
        if min(*sizes, 1 if self.subsampling_filters is None else self.subsampling_filters) < 1:
            raise UserError.expected(
                "sizes of at least 1 in the model section", f"{self}", "Correct the model section"
            )
        if self.num_layers < 1 or self.kernel_size < 1 or not 0 <= self.dropout_rate < 1:
            raise UserError.expected(
                "model.num_layers >= 1, model.kernel_size >= 1, 0 <= model.dropout_rate < 1",
                f"{self.num_layers}, {self.kernel_size}, {self.dropout_rate}",
                "Correct the model section",
            )


@dataclass(frozen=True, slots=True)
class DecodingConfig:
    """Greedy search."""

    max_symbols_per_frame: int = 5


@dataclass(frozen=True, slots=True)
class ConformerConfig:
    """Everything that defines a model and its training."""

    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    waveform_augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, object] | None = None
) -> ConformerConfig:
    """Reads a YAML file.

    Args:
        path: the file; None takes the defaults (Conformer-S).
        overrides: values by dotted key, such as `{"model.num_layers": 4}`; they win over the file.

    Raises:
        UserError: unknown key, wrong type or value, naming the key and the nearest valid one.
    """
    return load(ConformerConfig, path, overrides or {})
