"""Feature encoder of wav2vec 2.0: strided convolutions over the waveform, and a projection."""

import math

import keras
import numpy as np
from keras import ops

from tools.layers.dropout import Dropout
from tools.layers.layer_norm import LayerNormalization
from tools.layers.masking import sequence_mask

EPSILON = 1e-5


def num_frames(samples, kernel_sizes, strides):
    """Returns the number of frames after a sequence of convolutions without padding.

    Args:
        samples: `[B]` integers, lengths in samples.
        kernel_sizes: kernel sizes of the convolutions, in order.
        strides: strides of the convolutions, in order.

    Returns:
        `[B]` int32, at least 0.
    """
    frames = ops.cast(samples, "int32")
    for kernel_size, stride in zip(kernel_sizes, strides, strict=True):
        frames = ops.maximum((frames - kernel_size) // stride + 1, 0)
    return frames


def layer_norm(epsilon, dtype, name):
    """Returns a layer norm of the last axis, computed in float32 under every dtype policy."""
    return LayerNormalization(epsilon=epsilon, dtype=dtype, name=name)


def cosine_basis(size):
    """Returns the basis of the discrete cosine transform, `[size, size]` float32, as columns.

    Source: Ahmed et al., Discrete cosine transform (1974).
    """
    position, order = np.arange(size)[:, None] + 0.5, np.arange(size)[None, :]
    basis = np.cos(np.pi / size * position * order) * math.sqrt(2.0 / size)
    basis[:, 0] *= math.sqrt(0.5)
    return basis.astype("float32")


class WaveformConvolution(keras.layers.Layer):
    """First convolution with group norm: normalizes each channel over the frames of an utterance.

    The mean and variance of a channel with kernel w are `w^T m` and `w^T C w`, where m and C are
    mean and covariance of the windows of `kernel_size` samples. This is faster than computing them
    from the many output channels. The normalization is applied to the kernel. Windows and kernel
    are represented in a cosine basis, in which float32 is accurate enough for sounds without high
    frequencies. The output at padded frames is `beta`.

    Output length: `floor((S - kernel_size) / stride) + 1`.

    Args:
        filters: output channels; each is a group of the group norm.
        kernel_size: kernel size in samples.
        stride: stride in samples.

    Source: Baevski et al., wav2vec 2.0 (2020), section 2; Wu and He, Group normalization (2018).
    """

    def __init__(self, filters, kernel_size, stride, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.stride = stride

    def build(self, waveforms_shape):
        """Creates the variables for waveforms `[B, 1, S, 1]`."""
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
        """Applies the convolution and the group norm.

        Args:
            waveforms: `[B, 1, S, 1]` float32.
            frame_mask: `[B, T]` bool, True at valid frames; None: all frames are valid.

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
    """Convolution without padding, optional layer norm over the channels, and GELU.

    Output length: `floor((T - kernel_size) / stride) + 1`.

    Args:
        filters: output channels.
        kernel_size: kernel size in frames of the input.
        stride: stride in frames of the input.
        use_bias: whether the convolution has a bias.
        normalize: whether to apply the layer norm.

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
        """Creates the variables for inputs `[B, 1, T, C]`."""
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
        """Applies the layer; maps `[B, 1, T, C]` to `[B, 1, T', filters]`."""
        x = convolve(inputs, self.kernel, self.stride)
        x = x if self.bias is None else x + self.bias
        if self.norm is not None:
            # In three dimensions, because tf2onnx 1.17.0 converts a layer norm in four dimensions
            # to the wrong axis.
            x = ops.expand_dims(self.norm(ops.squeeze(x, 1)), 1)
        return gelu(x)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "filters kernel_size stride use_bias normalize".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class FeatureEncoder(keras.layers.Layer):
    """A sequence of convolutions without padding over the waveform.

    The convolutions of valid frames do not use padded samples. With group norm, padded samples have
    no influence if lengths are given. Output length: see `num_frames`.

    Args:
        norm: `group`: group norm over time after the first convolution. `layer`: layer norm over
            the channels after each convolution.
        filters: output channels of each convolution.
        kernel_sizes: kernel size of each convolution in frames of its input.
        strides: stride of each convolution in frames of its input.
        use_bias: whether the convolutions have biases. With `group`, the first has none, because
            the norm would remove it.

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
        """Creates the variables for waveforms `[B, S]`."""
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
        """Computes features of waveforms.

        Args:
            waveforms: `[B, S]` float32.
            lengths: `[B]` valid samples; None: all samples are valid, or padding counts as sound.

        Returns:
            `[B, T, filters[-1]]`.
        """
        # Use images with one row throughout. TensorFlow computes convolutions of sequences as such
        # images and would reshape before and after each convolution.
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
        """Returns the mask `[B, T]` bool of the valid frames of the first convolution."""
        stage = self.kernel_sizes[:1], self.strides[:1]
        frames = num_frames(ops.shape(waveforms)[1], *stage)
        return sequence_mask(num_frames(lengths, *stage), frames)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "norm filters kernel_sizes strides use_bias".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class FeatureProjection(keras.layers.Layer):
    """Layer norm, dense layer and dropout, applied to each frame.

    Args:
        hidden_dim: width D of the output.
        epsilon: epsilon of the layer norm.
        dropout_rate: rate of the dropout.

    Source: Baevski et al., wav2vec 2.0 (2020), section 4.2.
    """

    def __init__(self, hidden_dim, epsilon=EPSILON, dropout_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.epsilon = epsilon
        self.dropout_rate = dropout_rate

    def build(self, features_shape):
        """Creates the variables for features `[B, T, C]`."""
        self.norm = layer_norm(self.epsilon, self.dtype_policy, "norm")
        self.projection = keras.layers.Dense(
            self.hidden_dim, dtype=self.dtype_policy, name="projection"
        )
        for child in (self.norm, self.projection):
            child.build(features_shape)
        self.dropout = Dropout(self.dropout_rate, dtype=self.dtype_policy)
        self.built = True

    def call(self, features, training=False):
        """Projects features; maps `[B, T, C]` to `[B, T, D]`."""
        return self.dropout(self.projection(self.norm(features)), training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "hidden_dim epsilon dropout_rate".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def convolve(x, kernel, stride=1):
    """Convolves images with one row without padding.

    Args:
        x: `[B, 1, T, C]`.
        kernel: `[kernel_size, C, filters]`.
        stride: stride in frames.

    Returns:
        `[B, 1, T', filters]`.
    """
    return ops.conv(
        x,
        ops.expand_dims(kernel, 0),
        strides=(1, stride),
        padding="valid",
        data_format="channels_last",
    )


def kernel_initializer():
    """Returns a new He normal initializer."""
    return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")


def gelu(x):
    """Computes GELU exactly, with the error function."""
    return ops.gelu(x, approximate=False)
