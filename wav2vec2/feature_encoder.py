"""From a waveform to features: the strided convolutions, and the projection behind them."""

import math

import keras
import numpy as np
from keras import ops

from tools.layers.masking import sequence_mask

EPSILON = 1e-5


def num_frames(samples, kernel_sizes, strides):
    """Counts the frames that unpadded convolutions leave.

    Args:
        samples: `[B]` integers.
        kernel_sizes: of the convolutions, in their order.
        strides: likewise.

    Returns:
        `[B]` int32, at least 0.
    """
    frames = ops.cast(samples, "int32")
    for kernel_size, stride in zip(kernel_sizes, strides, strict=True):
        frames = ops.maximum((frames - kernel_size) // stride + 1, 0)
    return frames


def layer_norm(epsilon, dtype, name):
    """A layer norm of the last axis, computed in float32 under every policy."""
    return keras.layers.LayerNormalization(epsilon=epsilon, dtype=dtype, name=name)


def cosine_basis(size):
    """The orthonormal discrete cosine transform: `[size, size]` float32, a basis vector a column.

    Source: Ahmed et al., Discrete cosine transform (1974).
    """
    position, order = np.arange(size)[:, None] + 0.5, np.arange(size)[None, :]
    basis = np.cos(np.pi / size * position * order) * math.sqrt(2.0 / size)
    basis[:, 0] *= math.sqrt(0.5)
    return basis.astype("float32")


class WaveformConvolution(keras.layers.Layer):
    """The first convolution with group norm: each channel over the valid frames of its utterance.

    Convolution being linear, the moments of a channel are `w^T m` and `w^T C w` of the mean and the
    covariance of the `kernel_size` samples under it, which are sooner had than those of its many
    channels; and the kernel is what they scale. All three are taken in a cosine basis, where
    float32 keeps the small entries of a sound without high frequencies. Frames of padding come out
    as `beta`. Output length: `floor((S - kernel_size) / stride) + 1`.

    Args:
        filters: output channels, each a group of its own.
        kernel_size: in samples.
        stride: in samples.

    Source: Baevski et al., wav2vec 2.0 (2020), section 2; Wu and He, Group normalization (2018).
    """

    def __init__(self, filters, kernel_size, stride, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride

    def build(self, waveforms_shape):
        """Builds for waveforms of `[B, 1, S, 1]`."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, 1, self.filters),
            initializer=kernel_initializer(),
            autocast=False,
        )
        self.gamma, self.beta = (
            self.add_weight(name=name, shape=(self.filters,), initializer=value, autocast=False)
            for name, value in (("gamma", "ones"), ("beta", "zeros"))
        )
        self.basis = cosine_basis(self.kernel_size)
        self.built = True

    def call(self, waveforms, frame_mask=None):
        """Convolves and normalizes.

        Args:
            waveforms: `[B, 1, S, 1]` float32.
            frame_mask: `[B, T]` bool, True at frames that count; None: all do.

        Returns:
            `[B, 1, T, filters]`.
        """
        waveforms = ops.cast(waveforms, "float32")
        frames = ops.squeeze(convolve(waveforms, self.basis[:, None], self.stride), 1)
        if frame_mask is None:
            count = ops.cast(ops.shape(frames)[1], "float32")
            mean = ops.mean(frames, axis=1, keepdims=True)
            frames = frames - mean
        else:
            valid = frame_mask[:, :, None]
            count = ops.maximum(ops.sum(ops.cast(valid, "float32"), axis=1, keepdims=True), 1.0)
            mean = ops.sum(ops.where(valid, frames, 0.0), axis=1, keepdims=True) / count
            frames = ops.where(valid, frames - mean, 0.0)
        kernel = ops.matmul(self.basis.T, self.kernel[:, 0])
        covariance = ops.matmul(ops.transpose(frames, (0, 2, 1)), frames) / count
        variance = ops.sum(kernel * ops.matmul(covariance, kernel), axis=1, keepdims=True)
        scale = self.gamma * ops.rsqrt(ops.maximum(variance, 0.0) + EPSILON)
        x = ops.matmul(*(ops.cast(x, self.compute_dtype) for x in (frames, kernel * scale)))
        return ops.expand_dims(x + ops.cast(self.beta, self.compute_dtype), 1)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "filters kernel_size stride".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class FeatureConvolution(keras.layers.Layer):
    """Convolution without padding, a layer norm of the channels, or none, and GELU.

    Output length: `floor((T - kernel_size) / stride) + 1`.

    Args:
        filters: output channels.
        kernel_size: in frames.
        stride: in frames.
        use_bias: whether the convolution has one.
        normalize: whether there is a layer norm.

    Source: Baevski et al., wav2vec 2.0 (2020), section 2.
    """

    def __init__(self, filters, kernel_size, stride, use_bias, *, normalize, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride
        self.use_bias = use_bias
        self.normalize = normalize

    def build(self, inputs_shape):
        """Builds for inputs of `[B, 1, T, C]`."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, inputs_shape[-1], self.filters),
            initializer=kernel_initializer(),
        )
        self.bias = self.norm = None
        if self.use_bias:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        if self.normalize:
            self.norm = layer_norm(EPSILON, self.dtype_policy, "norm")
            self.norm.build((None, None, self.filters))
        self.built = True

    def call(self, inputs):
        """Maps `[B, 1, T, C]` to `[B, 1, T', filters]`."""
        x = convolve(inputs, self.kernel, self.stride)
        x = x if self.bias is None else x + self.bias
        if self.norm is not None:
            # As a sequence: tf2onnx 1.17.0 moves a picture's layer norm to the wrong axis.
            x = ops.expand_dims(self.norm(ops.squeeze(x, 1)), 1)
        return gelu(x)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "filters kernel_size stride use_bias normalize".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class FeatureEncoder(keras.layers.Layer):
    """A stack of convolutions without padding over the waveform.

    No valid frame reads a sample of padding; with group norm, none depends on one where the frames
    are masked. Output length: see `num_frames`.

    Args:
        norm: `group`: one norm, over time, behind the first convolution; `layer`: one of the
            channels behind each.
        filters: output channels of each convolution.
        kernel_sizes: of each.
        strides: of each.
        use_bias: whether they have biases; the first one has none with `group`, as that norm would
            take it away again.

    Source: Baevski et al., wav2vec 2.0 (2020), sections 2 and 4.2.
    """

    def __init__(self, norm, filters, kernel_sizes, strides, *, use_bias=False, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.norm = norm
        self.filters = filters
        self.kernel_sizes = kernel_sizes
        self.strides = strides
        self.use_bias = use_bias

    def build(self, waveforms_shape):
        """Builds for waveforms of `[B, S]`."""
        self.blocks, channels = [], 1
        grouped = self.norm == "group"
        for index, (filters, kernel_size, stride) in enumerate(
            zip(self.filters, self.kernel_sizes, self.strides, strict=True)
        ):
            common = {"dtype": self.dtype_policy, "name": f"block_{index}"}
            if grouped and index == 0:
                block = WaveformConvolution(filters, kernel_size, stride, **common)
            else:
                block = FeatureConvolution(
                    filters, kernel_size, stride, self.use_bias, normalize=not grouped, **common
                )
            block.build((None, 1, None, channels))
            self.blocks.append(block)
            channels = filters
        self.built = True

    def call(self, waveforms, lengths=None):
        """Convolves.

        Args:
            waveforms: `[B, S]` float32.
            lengths: `[B]` valid samples; None: all are.

        Returns:
            `[B, T, filters[-1]]`.
        """
        # Pictures of one row all the way: TensorFlow knows no other convolution, and would make
        # them of sequences, and sequences of them, around each.
        x = waveforms[:, None, :, None]
        first, *others = self.blocks
        if self.norm == "group":
            x = gelu(first(x, None if lengths is None else self._first_mask(waveforms, lengths)))
        else:
            x = first(x)
        for block in others:
            x = block(x)
        return ops.squeeze(x, 1)

    def _first_mask(self, waveforms, lengths):
        """The valid frames of the first convolution, `[B, T]` bool."""
        stage = self.kernel_sizes[:1], self.strides[:1]
        frames = num_frames(ops.shape(waveforms)[1], *stage)
        return sequence_mask(num_frames(lengths, *stage), frames)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "norm filters kernel_sizes strides use_bias".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class FeatureProjection(keras.layers.Layer):
    """Layer norm, dense layer and dropout. Keeps the length.

    Args:
        hidden_dim: D.
        epsilon: of the layer norm.
        dropout_rate: at the end.

    Source: Baevski et al., wav2vec 2.0 (2020), section 4.2.
    """

    def __init__(self, hidden_dim, epsilon=EPSILON, dropout_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.epsilon = epsilon
        self.dropout_rate = dropout_rate

    def build(self, features_shape):
        """Builds for features of `[B, T, C]`."""
        self.norm = layer_norm(self.epsilon, self.dtype_policy, "norm")
        self.projection = keras.layers.Dense(
            self.hidden_dim, dtype=self.dtype_policy, name="projection"
        )
        for child in (self.norm, self.projection):
            child.build(features_shape)
        self.dropout = keras.layers.Dropout(self.dropout_rate, dtype=self.dtype_policy)
        self.built = True

    def call(self, features, training=False):
        """Maps `[B, T, C]` to `[B, T, D]`."""
        return self.dropout(self.projection(self.norm(features)), training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "hidden_dim epsilon dropout_rate".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def convolve(x, kernel, stride=1):
    """Convolves pictures of one row, `[B, 1, T, C]`, by `[kernel_size, C, filters]`, unpadded."""
    return ops.conv(
        x,
        ops.expand_dims(kernel, 0),
        strides=(1, stride),
        padding="valid",
        data_format="channels_last",
    )


def kernel_initializer():
    """He's normal distribution, one draw for each call."""
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def gelu(x):
    """GELU by the error function."""
    return ops.gelu(x, approximate=False)
