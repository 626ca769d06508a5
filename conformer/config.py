"""Configuration of the speech Conformer: one frozen dataclass for each section of its YAML."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tools.config.loader import load
from tools.errors import UserError
from tools.ranges import number
from tools.speech.config import SPEECH_METRICS, DataConfig, WaveformAugmentConfig
from tools.training.config import LossScaleConfig, TrainingConfig, check_best_metric

_MAX_SIZE = 1 << 16  # of any dimension; what is larger is a slip, and would fill the memory


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """Arguments of `features.LogMelSpectrogram`."""

    sample_rate_hz: int = number(16000, at_least=4000, at_most=384000)
    frame_length_ms: float = number(25.0, above=0, at_most=1000)
    frame_step_ms: float = number(10.0, above=0, at_most=1000)
    fft_length: int = number(512, at_least=2, at_most=_MAX_SIZE)
    num_mel_bins: int = number(80, at_least=1, at_most=1024)
    min_hz: float = number(0.0, at_least=0)
    max_hz: float | None = number(None, above=0)  # null: half the sample rate
    preemphasis: float = number(0.97, at_least=0, below=1)
    top_db: float = number(80.0, above=0, at_most=1000)
    normalization: Literal["utterance", "loud_frames", "running_loud_frames"] = "utterance"
    loud_frames_db: float = number(35.0, above=0, at_most=1000)
    # Start values of running_loud_frames.
    start_offset_db: float = number(35.0, at_least=0, at_most=1000)
    start_deviation_db: float = number(13.0, above=0, at_most=1000)
    start_frames: float = number(20.0, above=0, at_most=100_000)
    remove_dc_offset: bool = False

    def validate(self) -> None:
        """Checks that a frame has samples and fits the transform, and that there are mel bins."""
        frame, step = (
            round(x * self.sample_rate_hz / 1000)
            for x in (self.frame_length_ms, self.frame_step_ms)
        )
        if not 1 <= step <= frame <= self.fft_length:
            raise UserError.expected(
                "features.frame_step_ms of at least a sample, frame_length_ms no shorter, and "
                "fft_length no shorter than a frame",
                f"{step}, {frame} and {self.fft_length} samples",
                "Correct the features section",
            )
        half = self.sample_rate_hz / 2
        highest = half if self.max_hz is None else self.max_hz
        if not self.min_hz < highest <= half:
            raise UserError.expected(
                f"features.min_hz below features.max_hz, and that at most {half:g}",
                f"{self.min_hz:g} and {highest:g}",
                "Correct the features section",
            )


@dataclass(frozen=True, slots=True)
class SpecAugmentConfig:
    """Arguments of `features.SpecAugment`."""

    num_time_masks: int = number(10, at_least=0, at_most=1000)
    max_time_mask_frames: int = number(100, at_least=0)
    max_time_mask_share: float = number(0.05, at_least=0, at_most=1)
    num_frequency_masks: int = number(1, at_least=0, at_most=1000)
    max_frequency_mask_bins: int = number(27, at_least=0)


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """Which symbols the model writes."""

    kind: Literal["characters", "sentencepiece"] = "characters"
    vocabulary_size: int = number(1000, at_least=2, at_most=1 << 20)  # sentencepiece only
    vocabulary_file: str = ""  # empty: made from the training transcripts


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of the transducer; the defaults are Conformer-S."""

    num_layers: int = number(16, at_least=1, at_most=1000)
    hidden_dim: int = number(144, at_least=1, at_most=_MAX_SIZE)
    num_heads: int = number(4, at_least=1, at_most=_MAX_SIZE)
    kernel_size: int = number(32, at_least=1, at_most=_MAX_SIZE)
    feedforward_multiplier: int = number(4, at_least=1, at_most=1000)
    # null: hidden_dim
    subsampling_filters: int | None = number(None, at_least=1, at_most=_MAX_SIZE)
    dropout_rate: float = number(0.1, at_least=0, below=1)
    prediction_dim: int = number(320, at_least=1, at_most=_MAX_SIZE)
    # Labels that the prediction network depends on; null: all. A word that is repeated more often
    # than in training needs a limit.
    prediction_context: int | None = number(None, at_least=2, at_most=64)
    joint_dim: int = number(320, at_least=1, at_most=_MAX_SIZE)
    # Weight of a CTC loss on the encoder beside the transducer's: small corpora align with it much
    # sooner. Its head is trained along and left out of exports; 0 makes none.
    ctc_weight: float = number(0.0, at_least=0, at_most=1)

    def validate(self) -> None:
        """Checks that the heads divide the width and that sinusoids come in pairs."""
        if self.hidden_dim % self.num_heads or self.hidden_dim % 2:
            raise UserError.expected(
                "model.hidden_dim even and a multiple of model.num_heads",
                f"{self.hidden_dim} and {self.num_heads}",
                "Change one of them",
            )


@dataclass(frozen=True, slots=True)
class DecodingConfig:
    """Greedy search."""

    max_symbols_per_frame: int = number(5, at_least=1, at_most=1000)


def _training() -> TrainingConfig:
    """A loss that is a sum over frames has large gradients: its scale starts low."""
    return TrainingConfig(loss_scale=LossScaleConfig(initial=4.0))


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
    training: TrainingConfig = field(default_factory=_training)

    def validate(self) -> None:
        """Checks that the metric of the best checkpoint is one that evaluation gives."""
        check_best_metric(self.training, SPEECH_METRICS)


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
