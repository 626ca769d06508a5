"""Convolution with batch norm, and residual convolution block of the vision Conformer."""

import keras
from keras import ops

from tools.layers import batch_norm

EPSILON = 1e-6
BATCH_NORM_MOMENTUM = 0.9
BOTTLENECK = 4


def kernel_initializer():
    """Returns a new initializer: He normal with `fan_out`, as in the PyTorch implementation."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def drop_path(rate, rank, dtype):
    """Returns a stochastic depth layer, which drops the residual branch of whole samples.

    Args:
        rate: probability to drop the branch of a sample.
        rank: number of dimensions of the branch.
        dtype: dtype policy.

    Source: Huang et al., Deep networks with stochastic depth (2016).
    """
    return keras.layers.Dropout(rate, noise_shape=(None, *(1,) * (rank - 1)), dtype=dtype)


class BatchNormalization(batch_norm.BatchNormalization):
    """Batch normalization with the constants of the vision Conformer.

    Args:
        epsilon: constant that is added to the variance.
        zero_init: whether the initial scale is 0 instead of 1.
    """

    def __init__(self, epsilon=EPSILON, zero_init=False, **kwargs):
        super().__init__(BATCH_NORM_MOMENTUM, epsilon, zero_init, **kwargs)

    def get_config(self):
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["momentum"]
        return config


class ConvolutionNorm(keras.layers.Layer):
    """Convolution without bias, followed by batch norm.

    The input is padded by `kernel_size // 2` zeros on each side. Output size:
    `ceil(size / strides)`.

    Args:
        filters: output channels.
        kernel_size: height and width of the kernel, odd.
        strides: stride in both directions.
        epsilon: epsilon of the batch norm.
        zero_init: whether the initial scale of the batch norm is 0 instead of 1.
    """

    def __init__(
        self, filters, kernel_size=1, strides=1, epsilon=EPSILON, *, zero_init=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.epsilon = epsilon
        self.zero_init = zero_init

    def build(self, inputs_shape):
        """Creates the variables for inputs `[B, H, W, C]`."""
        policy = self.dtype_policy
        # With a stride, padding="same" would pad inputs of even size at the right and bottom only.
        explicit = self.strides > 1 and self.kernel_size > 1
        self.padding = (
            keras.layers.ZeroPadding2D(self.kernel_size // 2, dtype=policy) if explicit else None
        )
        self.convolution = keras.layers.Conv2D(
            self.filters,
            self.kernel_size,
            strides=self.strides,
            padding="valid" if self.strides > 1 else "same",
            use_bias=False,
            kernel_initializer=kernel_initializer(),
            dtype=policy,
            name="convolution",
        )
        self.convolution.build((None, None, None, inputs_shape[-1]))
        self.normalization = BatchNormalization(
            self.epsilon, self.zero_init, dtype=policy, name="normalization"
        )
        self.normalization.build((None, None, None, self.filters))
        self.built = True

    def call(self, inputs, training=False):
        """Applies convolution and batch norm; maps `[B, H, W, C]` to `[B, H', W', filters]`."""
        x = inputs if self.padding is None else self.padding(inputs)
        return self.normalization(self.convolution(x), training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "filters kernel_size strides epsilon zero_init".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class ConvolutionBlock(keras.layers.Layer):
    """Residual bottleneck block: 1x1, 3x3 and 1x1 convolution with a shortcut.

    A feature map of the transformer branch can be added to the input of the 3x3 convolution.
    Output size: `ceil(size / strides)`.

    Args:
        filters: output channels, a multiple of 4.
        strides: stride of the 3x3 convolution and of the shortcut.
        project_residual: whether the shortcut is a convolution. Otherwise the input must have the
            shape of the output.
        drop_path_rate: rate of stochastic depth of the residual branch.
        zero_init_last_batch_norm: whether the residual branch is 0 at initialization.

    Source: Peng et al., Conformer (2021), section 3.2; He et al., Deep residual learning (2016).
    """

    def __init__(
        self,
        filters,
        strides=1,
        project_residual=False,
        drop_path_rate=0.0,
        *,
        zero_init_last_batch_norm=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.strides = strides
        self.project_residual = project_residual
        self.drop_path_rate = drop_path_rate
        self.zero_init_last_batch_norm = zero_init_last_batch_norm

    def build(self, inputs_shape):
        """Creates the variables for inputs `[B, H, W, C]`."""
        policy, inner = self.dtype_policy, self.filters // BOTTLENECK
        self.reduce = ConvolutionNorm(inner, dtype=policy, name="reduce")
        self.spatial = ConvolutionNorm(inner, 3, self.strides, dtype=policy, name="spatial")
        self.expand = ConvolutionNorm(
            self.filters, zero_init=self.zero_init_last_batch_norm, dtype=policy, name="expand"
        )
        self.residual = None
        if self.project_residual:
            self.residual = ConvolutionNorm(
                self.filters, strides=self.strides, dtype=policy, name="residual"
            )
            self.residual.build(inputs_shape)
        self.reduce.build(inputs_shape)
        self.spatial.build((None, None, None, inner))
        self.expand.build((None, None, None, inner))
        self.drop_path = drop_path(self.drop_path_rate, 4, policy)
        self.built = True

    def call(self, inputs, added=None, training=False):
        """Applies the block.

        Args:
            inputs: `[B, H, W, C]`.
            added: `[B, H, W, filters / 4]` feature map of the transformer branch, or None.
            training: whether stochastic depth is active and batch norm uses the moments of the
                batch.

        Returns:
            `[B, H', W', filters]` output, and `[B, H', W', filters / 4]` output of the 3x3
            convolution.
        """
        x = ops.relu(self.reduce(inputs, training=training))
        x = x if added is None else x + added
        inner = ops.relu(self.spatial(x, training=training))
        x = self.drop_path(self.expand(inner, training=training), training=training)
        shortcut = inputs if self.residual is None else self.residual(inputs, training=training)
        return ops.relu(x + shortcut), inner

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "filters strides project_residual drop_path_rate zero_init_last_batch_norm".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
