"""Masking of features in training."""

import math

import keras
from keras import ops


class SpanMasking(keras.layers.Layer):
    """Replaces random time spans by a learned vector and random spans of channels by zero.

    The masks depend only on the random numbers `uniforms` that the caller passes. The data
    pipeline draws them from the seed, the epoch and the utterance, so that the masks of an
    utterance do not depend on the number of processes. Spans start at different positions and can
    overlap. The output has as many frames as the input.

    Args:
        time_rate: fraction of masked frames if the masks did not overlap.
        time_span: frames of a time mask.
        min_time_masks: smallest number of time masks; fewer if the utterance is too short.
        feature_rate: fraction of masked channels if the masks did not overlap.
        feature_span: channels of a feature mask.
        min_feature_masks: smallest number of feature masks.

    Source: Baevski et al., wav2vec 2.0 (2020), sections 3.1 and 4.3.
    """

    def __init__(
        self,
        time_rate=0.05,
        time_span=10,
        min_time_masks=2,
        feature_rate=0.0,
        *,
        feature_span=10,
        min_feature_masks=0,
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        self.time_rate = time_rate
        self.time_span = time_span
        self.min_time_masks = min_time_masks
        self.feature_rate = feature_rate
        self.feature_span = feature_span
        self.min_feature_masks = min_feature_masks

    def build(self, features_shape):
        """Creates the mask embedding for features `[B, T, D]`."""
        self.hidden_dim = features_shape[-1]
        self.embedding = self.add_weight(
            name="embedding",
            shape=(self.hidden_dim,),
            initializer=keras.initializers.RandomUniform(0.0, 1.0),
            trainable=self.time_rate > 0,
        )
        self.built = True

    def num_uniforms(self, frames):
        """Returns how many random numbers an utterance with at most `frames` frames requires."""
        return 2 + self._num_feature_masks + self._num_masks(frames, "time")

    @property
    def _num_feature_masks(self):
        return self._num_masks(self.hidden_dim, "feature")

    def _num_masks(self, extent, axis):
        """Returns the largest possible number of masks along an axis of length `extent`."""
        rate, span = getattr(self, f"{axis}_rate"), getattr(self, f"{axis}_span")
        fewest = getattr(self, f"min_{axis}_masks")
        return max(math.floor(rate * extent / span + 1.0), fewest) if rate > 0 else 0

    def call(self, features, lengths, uniforms):
        """Masks features.

        Args:
            features: `[B, T, D]`.
            lengths: `[B]` valid frames.
            uniforms: `[B, N]` random numbers in `[0, 1)`; N limits the number of masks, see
                `num_uniforms`.

        Returns:
            `[B, T, D]` masked features.
        """
        x, places = features, 2 + self._num_feature_masks
        if self.time_rate > 0:
            masked = self._masked(
                "time", lengths, uniforms[:, :1], uniforms[:, places:], size=ops.shape(x)[1]
            )
            x = ops.where(masked[:, :, None], ops.cast(self.embedding, x.dtype), x)
        if self.feature_rate > 0:
            extents = ops.full_like(lengths, self.hidden_dim)
            masked = self._masked(
                "feature", extents, uniforms[:, 1:2], uniforms[:, 2:places], size=self.hidden_dim
            )
            x = ops.where(masked[:, None, :], ops.cast(0, x.dtype), x)
        return x

    def _masked(self, axis, extents, rounding, uniforms, *, size):
        """Returns the union of the masks along an axis, `[B, size]` bool, within `extents`.

        The number of masks, `rate * extent / span`, is rounded up or down at random. To get
        distinct start positions, n positions are drawn with replacement from n - 1 fewer
        positions, sorted, and the i-th is moved by i.
        """
        rate, span = getattr(self, f"{axis}_rate"), getattr(self, f"{axis}_span")
        places = ops.maximum(ops.cast(extents, "float32")[:, None] - (span - 1.0), 0.0)
        available = ops.cast(ops.shape(uniforms)[1], "float32")
        fewest = float(getattr(self, f"min_{axis}_masks"))
        count = ops.floor(rate / span * (places + (span - 1.0)) + rounding)
        count = ops.minimum(ops.maximum(count, fewest), ops.minimum(places, available))
        index = ops.cast(ops.arange(ops.shape(uniforms)[1]), "float32")[None, :]
        starts = ops.floor(uniforms * (places - count + 1.0))
        starts = ops.sort(ops.where(index < count, starts, float(2**24)), axis=1) + index
        position = ops.cast(ops.arange(size), "float32")[None, :, None]
        inside = ops.logical_and(
            position >= starts[:, None, :], position < starts[:, None, :] + span
        )
        return ops.any(inside, axis=-1)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = (
            "time_rate time_span min_time_masks feature_rate feature_span min_feature_masks"
        ).split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
