"""The masks that training lays over the features."""

import math

import keras
from keras import ops


class SpanMasking(keras.layers.Layer):
    """Replaces stretches of time by a learned vector and stretches of channels by zero.

    A pure function of its `uniforms`: whoever draws them decides about reproducibility, so the same
    utterance of the same epoch gets the same masks on any number of processes. Spans start at
    different places and may overlap. Keeps the length.

    Args:
        time_rate: share of an utterance's frames under masks, were there no overlaps.
        time_span: frames of a mask.
        min_time_masks: the fewest that an utterance gets if it is long enough for them.
        feature_rate: share of the channels.
        feature_span: channels of a mask.
        min_feature_masks: the fewest.

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
        """Builds for features of `[B, T, D]`."""
        self.hidden_dim = features_shape[-1]
        self.embedding = self.add_weight(
            name="embedding",
            shape=(self.hidden_dim,),
            initializer=keras.initializers.RandomUniform(0.0, 1.0),
            trainable=self.time_rate > 0,
        )
        self.built = True

    def num_uniforms(self, frames):
        """Returns how many uniform numbers an utterance of up to that many frames needs."""
        return 2 + self._num_feature_masks + self._num_masks(frames, "time")

    @property
    def _num_feature_masks(self):
        return self._num_masks(self.hidden_dim, "feature")

    def _num_masks(self, extent, axis):
        """The most masks that may come along an axis."""
        rate, span = getattr(self, f"{axis}_rate"), getattr(self, f"{axis}_span")
        fewest = getattr(self, f"min_{axis}_masks")
        return max(math.floor(rate * extent / span + 1.0), fewest) if rate > 0 else 0

    def call(self, features, lengths, uniforms):
        """Masks features.

        Args:
            features: `[B, T, D]`.
            lengths: `[B]` valid frames.
            uniforms: `[B, N]` in `[0, 1)`; an utterance gets no more masks than they are enough
                for, see `num_uniforms`.

        Returns:
            `[B, T, D]`.
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
        """Marks the union of an axis's masks inside `extents`: `[B, size]` bool.

        Masks are as many as the rate asks for, rounded up or down at random. Distinct places are
        sorted draws with repetition from so many fewer places, spread by one each.
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
