"""wav2vec 2.0 with a CTC head as a Keras model: maps normalized waveforms to logits."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import keras
from keras import ops

from tools.errors import UserError
from tools.layers.dropout import Dropout
from tools.layers.masking import sequence_mask
from wav2vec2.config import ModelConfig, model_config
from wav2vec2.encoder import Encoder, projection
from wav2vec2.feature_encoder import FeatureEncoder, FeatureProjection, num_frames
from wav2vec2.masking import SpanMasking


@keras.saving.register_keras_serializable(package="wav2vec2")
class Wav2Vec2(keras.Model):
    """A speech recognizer that computes logits of characters and the CTC blank every 20 ms.

    For fine-tuning, the convolutions are usually frozen: `feature_encoder.trainable = False`.

    Args:
        config: a `ModelConfig`, or its fields by name.

    Attributes:
        config: the `ModelConfig`.
        vocabulary: set by `weights.from_pretrained`; otherwise None until the caller sets it.
        preprocessing: set by `weights.from_pretrained`; otherwise None until the caller sets it.

    Source: Baevski et al., wav2vec 2.0 (2020).
    """

    def __init__(self, config: ModelConfig | Mapping[str, Any], **kwargs):
        # No autocast: the layers cast, because waveforms and random numbers need float32.
        super().__init__(autocast=False, **kwargs)
        self.config = config = model_config(config)
        self.vocabulary = self.preprocessing = None
        policy = self.dtype_policy
        self.feature_encoder = FeatureEncoder(
            config.feature_norm,
            config.feature_filters,
            config.feature_kernel_sizes,
            config.feature_strides,
            use_bias=config.feature_bias,
            dtype=policy,
            name="feature_encoder",
        )
        self.feature_projection = FeatureProjection(
            config.hidden_dim,
            config.layer_norm_epsilon,
            config.feature_dropout_rate,
            dtype=policy,
            name="feature_projection",
        )
        self.masking = SpanMasking(
            config.time_mask_rate,
            config.time_mask_frames,
            config.min_time_masks,
            config.feature_mask_rate,
            feature_span=config.feature_mask_channels,
            min_feature_masks=config.min_feature_masks,
            dtype=policy,
            name="masking",
        )
        self.encoder = Encoder(
            config.num_layers,
            config.num_heads,
            config.feedforward_dim,
            config.position_kernel_size,
            position_groups=config.position_groups,
            pre_norm=config.pre_norm,
            epsilon=config.layer_norm_epsilon,
            dropout_rate=config.dropout_rate,
            attention_dropout_rate=config.attention_dropout_rate,
            activation_dropout_rate=config.activation_dropout_rate,
            layer_drop_rate=config.layer_drop_rate,
            dtype=policy,
            name="encoder",
        )
        self.head_dropout = Dropout(config.head_dropout_rate, dtype=policy)
        self.head = projection(config.vocabulary_size, "float32", "head")

    def build(self, waveforms_shape=None):
        """Creates all variables. Their shapes do not depend on the inputs."""
        hidden = (None, None, self.config.hidden_dim)
        self.feature_encoder.build((None, None))
        self.feature_projection.build((None, None, self.config.feature_filters[-1]))
        for child in (self.masking, self.encoder, self.head):
            child.build(hidden)
        self.built = True

    def __call__(self, waveforms, *args, **kwargs):
        """Checks the shape of the waveforms first, because Keras adds lines to errors in `call`."""
        self._check(waveforms)
        return super().__call__(waveforms, *args, **kwargs)

    def call(self, waveforms, lengths=None, uniforms=None, training=False):
        """Computes the logits of waveforms.

        Args:
            waveforms: `[B, S]` float32, preprocessed as the model requires. Values after the end
                of a waveform have no influence, unless `mask_padding` is false.
            lengths: `[B]` valid samples; None: all samples are valid.
            uniforms: `[B, N]` random numbers in `[0, 1)` for the masks, see `num_uniforms`; None:
                no masks.
            training: whether dropout, LayerDrop and masks are active.

        Returns:
            `[B, T, V]` float32 logits; `logit_lengths` gives the numbers of valid frames.

        Raises:
            UserError: the waveforms have another shape or fewer samples than one frame requires.
        """
        encoded = self.encode(waveforms, lengths, uniforms, training)
        return self.head(self.head_dropout(encoded, training=training))

    def encode(self, waveforms, lengths=None, uniforms=None, training=False):
        """Computes the input of the head.

        Args:
            waveforms: see `call`.
            lengths: see `call`.
            uniforms: see `call`.
            training: see `call`.

        Returns:
            `[B, T, D]` encoded frames.
        """
        self._check(waveforms)
        seen = lengths if self.config.mask_padding else None
        x = self.feature_projection(self.feature_encoder(waveforms, seen), training=training)
        batch_size, frames = ops.shape(x)[:2]
        if training and uniforms is not None:
            every = ops.full((batch_size,), frames, "int32")
            x = self.masking(x, every if lengths is None else self.logit_lengths(lengths), uniforms)
        mask = None if seen is None else sequence_mask(self.logit_lengths(seen), frames)
        return self.encoder(x, mask, training=training)

    def logit_lengths(self, lengths):
        """Returns the `[B]` int32 numbers of valid frames for `[B]` lengths in samples."""
        return num_frames(lengths, self.config.feature_kernel_sizes, self.config.feature_strides)

    def num_uniforms(self, num_samples: int) -> int:
        """Returns how many random numbers an utterance of at most `num_samples` requires."""
        return self.masking.num_uniforms(self.config.num_frames(num_samples))

    def _check(self, waveforms):
        shape, fewest = tuple(waveforms.shape), self.config.receptive_field_samples
        if len(shape) != 2 or (shape[1] is not None and shape[1] < fewest):
            raise UserError.expected(
                f"waveforms of shape [B, S] with at least {fewest} samples",
                list(shape),
                "Leave out shorter waveforms",
            )

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "config": asdict(self.config)}


def build_model(
    architecture: str | ModelConfig | Mapping[str, Any] = "base",
    precision: str = "float32",
    **options: Any,
) -> Wav2Vec2:
    """Returns a model with all its variables, initialized at random.

    Args:
        architecture: `base`, `large`, `large-lv60`, a `ModelConfig`, or the fields that differ
            from base by name.
        precision: Keras dtype policy: `float32`, `mixed_float16` or `mixed_bfloat16`.
        **options: further fields of `ModelConfig`, such as `vocabulary_size` or `mask_padding`.

    Raises:
        UserError: the architecture or a field is unknown, or the sizes do not fit together.
    """
    model = Wav2Vec2(
        model_config(architecture, **options), dtype=keras.DTypePolicy(precision), name="wav2vec2"
    )
    model.build()
    return model
