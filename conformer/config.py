"""Configuration of the speech Conformer: one frozen dataclass for each section of the YAML file."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from conformer.tensorflow_asr import is_tensorflow_asr, translate
from tools.config.loader import load, nested
from tools.config.similar import replace_keys
from tools.errors import UserError
from tools.launcher import launched_rank
from tools.ranges import number
from tools.speech.config import SPEECH_METRICS, DataConfig, WaveformAugmentConfig
from tools.training.config import LossScaleConfig, TrainingConfig, check_best_metric

_log = logging.getLogger(__name__)
_MAX_SIZE = 1 << 16  # of any dimension; a larger value is a typing error and would fill the memory


@dataclass(frozen=True, slots=True)
class FeaturesConfig:
    """Arguments of `conformer.features.LogMelSpectrogram`, with their units."""

    sample_rate_hz: int = number(16000, at_least=4000, at_most=384000)
    frame_length_ms: float = number(25.0, above=0, at_most=1000)
    frame_step_ms: float = number(10.0, above=0, at_most=1000)
    fft_length: int = number(512, at_least=2, at_most=_MAX_SIZE)
    num_mel_bins: int = number(80, at_least=1, at_most=1024)
    min_hz: float = number(0.0, at_least=0)
    max_hz: float | None = number(None, above=0)  # null: half the sample rate
    preemphasis: float = number(0.97, at_least=0, below=1)
    top_db: float = number(80.0, above=0, at_most=1000)
    # Of the models of NeMo and Hugging Face: extractor nemo, normalization per_bin or none.
    extractor: Literal["librosa", "nemo"] = "librosa"
    normalization: Literal["utterance", "loud_frames", "running_loud_frames", "per_bin", "none"] = (
        "utterance"
    )
    loud_frames_db: float = number(35.0, above=0, at_most=1000)
    # The three start values are used by normalization: running_loud_frames only.
    start_offset_db: float = number(35.0, at_least=0, at_most=1000)
    start_deviation_db: float = number(13.0, above=0, at_most=1000)
    start_frames: float = number(20.0, above=0, at_most=100_000)
    remove_dc_offset: bool = False

    def validate(self) -> None:
        """Checks the frame and transform sizes, the frequency range and the normalization.

        Raises:
            UserError: `1 sample <= frame step <= frame length <= fft_length` or
                `min_hz < max_hz <= sample_rate_hz / 2` does not hold, or the extractor does not
                have the normalization.
        """
        frame, step = (
            round(x * self.sample_rate_hz / 1000)
            for x in (self.frame_length_ms, self.frame_step_ms)
        )
        if not 1 <= step <= frame <= self.fft_length:
            raise UserError.expected(
                "1 sample <= features.frame_step_ms <= features.frame_length_ms <= "
                "features.fft_length",
                f"{step}, {frame} and {self.fft_length} samples",
                "Correct the features section",
            )
        half = self.sample_rate_hz / 2
        highest = half if self.max_hz is None else self.max_hz
        if not self.min_hz < highest <= half:
            raise UserError.expected(
                f"features.min_hz < features.max_hz <= {half:g} (half of features.sample_rate_hz)",
                f"{self.min_hz:g} and {highest:g}",
                "Correct the features section",
            )
        if (self.extractor == "nemo") != (self.normalization in ("per_bin", "none")):
            raise UserError.expected(
                "features.normalization: per_bin or none with features.extractor: nemo, and "
                "another one with librosa",
                f"{self.normalization} with {self.extractor}",
                "Correct one of them",
            )


@dataclass(frozen=True, slots=True)
class SpecAugmentConfig:
    """Arguments of `conformer.features.SpecAugment`."""

    num_time_masks: int = number(10, at_least=0, at_most=1000)
    max_time_mask_frames: int = number(100, at_least=0)
    max_time_mask_share: float = number(0.05, at_least=0, at_most=1)
    num_frequency_masks: int = number(1, at_least=0, at_most=1000)
    max_frequency_mask_bins: int = number(27, at_least=0)


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """The vocabulary of the model's output."""

    kind: Literal["characters", "sentencepiece"] = "characters"
    vocabulary_size: int = number(1000, at_least=2, at_most=1 << 20)  # sentencepiece only
    vocabulary_file: str = ""  # empty: build the vocabulary from the training transcripts
    language: str = ""  # of the transcripts, such as en; a server refuses requests for others


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of the transducer. The defaults are those of Conformer-S (Gulati et al., table 1)."""

    num_layers: int = number(16, at_least=1, at_most=1000)
    hidden_dim: int = number(144, at_least=1, at_most=_MAX_SIZE)
    num_heads: int = number(4, at_least=1, at_most=_MAX_SIZE)
    kernel_size: int = number(32, at_least=1, at_most=_MAX_SIZE)
    feedforward_multiplier: int = number(4, at_least=1, at_most=1000)
    # null: feedforward_multiplier * hidden_dim
    feedforward_dim: int | None = number(None, at_least=1, at_most=1 << 20)
    # null: the same as hidden_dim
    subsampling_filters: int | None = number(None, at_least=1, at_most=_MAX_SIZE)
    dropout_rate: float = number(0.1, at_least=0, below=1)
    # Prediction network: an LSTM over all labels so far, or an embedding and a convolution over the
    # last two, which is smaller and faster.
    prediction: Literal["lstm", "stateless"] = "lstm"
    prediction_dim: int = number(320, at_least=1, at_most=_MAX_SIZE)
    joint_dim: int = number(320, at_least=1, at_most=_MAX_SIZE)
    # Weight of an auxiliary CTC loss on the encoder output. With it, a model learns the alignment
    # from a small corpus much sooner. Exports contain the CTC head only if decoding.head is ctc.
    # 0: no CTC head.
    ctc_weight: float = number(0.0, at_least=0, at_most=1)
    # The options below describe published models. Their defaults are this project's architecture.
    subsampling_factor: Literal[4, 8] = 4  # one convolution with stride 2 halves the frames
    # Convolutions after the first: full, or a depthwise and a pointwise one (FastConformer).
    subsampling: Literal["striding", "dw_striding"] = "striding"
    scale_input: bool = False  # multiply the input of the first block by sqrt(hidden_dim)
    # Projections of the attention that have a bias.
    attention_bias: Literal["output", "all", "none"] = "output"
    feedforward_bias: bool = True
    convolution_bias: bool = True  # of the convolution modules
    convolution_norm: Literal["batch", "layer"] = "batch"
    convolution_norm_epsilon: float = number(1e-3, above=0, at_most=1)
    # false: a model with a CTC head only, without a prediction and a joint network
    transducer: bool = True
    prediction_layers: int = number(1, at_least=1, at_most=100)  # LSTM layers
    prediction_norm: bool = True  # layer norm after the LSTM
    joint_activation: Literal["tanh", "relu", "sigmoid"] = "tanh"
    joint_prediction_bias: bool = False  # bias of the projection of the prediction network
    # Token-and-duration transducer: frames by which a token can move forward. Empty: a transducer.
    durations: tuple[int, ...] = number((), at_least=0, at_most=1000)

    def validate(self) -> None:
        """Checks the width, the durations, and that there is an output.

        Raises:
            UserError: hidden_dim is odd or not a multiple of num_heads, the durations are not
                increasing numbers with one above 0, or a model without a transducer has durations
                or no CTC head.
        """
        if self.hidden_dim % self.num_heads or self.hidden_dim % 2:
            raise UserError.expected(
                "an even model.hidden_dim that is a multiple of model.num_heads",
                f"hidden_dim {self.hidden_dim}, num_heads {self.num_heads}",
                "Change one of them",
            )
        durations = self.durations
        if durations and (sorted({*durations}) != [*durations] or durations[-1] == 0):
            raise UserError.expected(
                "increasing model.durations, the last one above 0",
                ", ".join(map(str, durations)),
                "Write for example [0, 1, 2, 3, 4]",
            )
        if not self.transducer and (self.ctc_weight < 1 or durations):
            raise UserError.expected(
                "model.ctc_weight: 1 and no model.durations with model.transducer: false",
                f"ctc_weight {self.ctc_weight:g}, {len(durations)} durations",
                "Correct one of them",
            )


@dataclass(frozen=True, slots=True)
class PruningConfig:
    """Options of loss.kind: pruned."""

    # Number of states of each frame at which the joint network is computed, at most the labels of
    # the longest transcript + 1. A frame can emit s_range - 1 labels.
    s_range: int = number(5, at_least=2, at_most=_MAX_SIZE)
    # Weight of the loss of the simple joint network, which chooses the states.
    simple_scale: float = number(0.5, at_least=0, at_most=1)
    # Updates over which the weight of the simple loss goes from 1 to simple_scale, and that of the
    # pruned loss from 0.1 to 1.
    warmup_steps: int = number(2000, at_least=0)


@dataclass(frozen=True, slots=True)
class LossConfig:
    """Options of the transducer loss."""

    # How the loss is computed: plain keeps the logits of all frames and states in memory, fused
    # those of a few frames. Both have the same value and gradients. pruned computes the logits of a
    # few states of each frame only, which is fastest; it trains a slightly different loss.
    kind: Literal["plain", "fused", "pruned"] = "plain"
    pruning: PruningConfig = field(default_factory=PruningConfig)
    # Of token-and-duration transducers only: subtracted from the log probability of each symbol,
    # which prefers long durations.
    sigma: float = number(0.0, at_least=0, at_most=10)


@dataclass(frozen=True, slots=True)
class DecodingConfig:
    """Options of the searches."""

    max_symbols_per_frame: int = number(5, at_least=1, at_most=1000)
    # Subtracted from the log probability of the blank: a model that leaves out words writes more.
    blank_penalty: float = number(0.0, at_least=0, at_most=100)
    # Output that greedy search decodes: the transducer, or the CTC head on the encoder. `ctc`
    # requires model.ctc_weight > 0, uses no blank_penalty, and emits at most one symbol per frame.
    head: Literal["transducer", "ctc"] = "transducer"
    # Hypotheses of the beam search in the signature serve_beam of an export; 0: no such signature.
    # A model that decodes its CTC head has none.
    beam_width: int = number(4, at_least=0, at_most=100)
    # Whether that beam search divides the scores by the number of tokens.
    norm_score: bool = False


def _training() -> TrainingConfig:
    """Returns the training defaults, with a low initial loss scale.

    The transducer loss is a sum over frames, so its gradients are large in float16.
    """
    return TrainingConfig(loss_scale=LossScaleConfig(initial=4.0))


@dataclass(frozen=True, slots=True)
class ConformerConfig:
    """Configuration of a model and its training."""

    data: DataConfig = field(default_factory=DataConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    waveform_augment: WaveformAugmentConfig = field(default_factory=WaveformAugmentConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    training: TrainingConfig = field(default_factory=_training)

    def validate(self) -> None:
        """Checks keys of different sections against each other.

        Raises:
            UserError: evaluation does not compute the metric that selects the best checkpoint, or
                decoding or the loss requires a part that the model does not have.
        """
        check_best_metric(self.training, SPEECH_METRICS)
        if self.decoding.head == "ctc" and self.model.ctc_weight == 0:
            raise UserError.expected(
                "decoding.head: transducer for a model without a CTC head (model.ctc_weight: 0)",
                "decoding.head: ctc",
                "Set model.ctc_weight above 0, for example 0.3, or correct decoding.head",
            )
        if self.decoding.head == "transducer" and not self.model.transducer:
            raise UserError.expected(
                "decoding.head: ctc for a model with model.transducer: false",
                "decoding.head: transducer",
                "Correct one of them",
            )
        activation = self.model.joint_activation
        if self.loss.kind != "plain" and (
            self.model.durations
            or not self.model.transducer
            or (self.loss.kind == "fused" and activation != "tanh")
        ):
            raise UserError.expected(
                "loss.kind: plain with model.durations, with model.transducer: false, or (for "
                "fused) with another model.joint_activation than tanh",
                f"loss.kind: {self.loss.kind}",
                "Correct loss.kind",
            )
        if self.decoding.head == "ctc" and self.decoding.blank_penalty > 0:
            raise UserError.expected(
                "decoding.blank_penalty: 0 with decoding.head: ctc, whose search does not use it",
                self.decoding.blank_penalty,
                "Correct one of them",
            )


def load_config(
    path: str | Path | None = None, overrides: Mapping[str, object] | None = None
) -> ConformerConfig:
    """Returns the configuration in a YAML file.

    Keys of a file of TensorFlowASR that have no effect here are logged with the reason.

    Args:
        path: YAML file, of this project or of TensorFlowASR; None returns the defaults
            (Conformer-S).
        overrides: values by dotted key, such as `{"model.num_layers": 4}`. They take precedence
            over the file.

    Raises:
        UserError: a key is unknown, or a value has the wrong type or is out of range. The message
            names the key, and for an unknown key the most similar valid one.
    """
    sources: dict[str, str] = {}

    def own(content: Mapping) -> Mapping:
        """Returns the content of the file in the sections of `ConformerConfig`."""
        if not is_tensorflow_asr(content):
            return content
        translation = translate(content, path)
        if launched_rank() == 0:
            for line in translation.lines():
                _log.warning("%s: no effect of %s", path, line)
        sources.update(translation.sources)
        return nested(translation.values)

    try:
        return load(ConformerConfig, path, overrides or {}, own)
    except UserError as error:
        names = {key: name for key, name in sources.items() if key not in (overrides or {})}
        # Messages about several keys name them by their last parts.
        names |= {key.rpartition(".")[2]: name for key, name in names.items() if "_" in key}
        raise UserError(replace_keys(str(error), names)) from error
