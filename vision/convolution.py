"""The convolution side of the vision Conformer: batch-normalized convolutions, residual block."""

import keras
from keras import ops

EPSILON = 1e-6
BATCH_NORM_MOMENTUM = 0.9
BOTTLENECK = 4


def kernel_initializer():
    """He's normal distribution over the outgoing connections, one draw for each call."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def drop_path(rate, rank, dtype):
    """Dropout of whole samples of a residual branch of that rank.

    Source: Huang et al., Deep networks with stochastic depth (2016).
    """
    return keras.layers.Dropout(rate, noise_shape=(None, *(1,) * (rank - 1)), dtype=dtype)


class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization over all but the last axis, optionally over the batches of all ranks.

    Args:
        epsilon: added to the variance.
        zero_init: whether the scale starts at zero.

    Attributes:
        sum_over_ranks: function `[N] -> [N]` that adds a vector over all ranks and is
            differentiable; None normalizes each rank by its own batch.
        normalize_batch: function of `[..., C]`, scale `[C]`, offset `[C]` and epsilon that gives
            the outputs, the mean and the variance of a rank's own batch, for a framework that has
            a kernel for it; None computes them by Keras operations.

    Source: Ioffe and Szegedy, Batch normalization (2015).
    """

    def __init__(self, epsilon=EPSILON, zero_init=False, **kwargs):
        super().__init__(
            momentum=BATCH_NORM_MOMENTUM,
            epsilon=epsilon,
            gamma_initializer="zeros" if zero_init else "ones",
            **kwargs,
        )
        self.zero_init = zero_init
        self.sum_over_ranks = None
        self.normalize_batch = None

    def call(self, inputs, training=False):
        """Normalizes `[..., C]`."""
        own = self.sum_over_ranks is None
        if not (training and self.trainable) or (own and self.normalize_batch is None):
            return super().call(inputs, training=training)
        x = ops.cast(inputs, "float32")
        if own:
            found = self.normalize_batch(x, self.gamma, self.beta, self.epsilon)
        else:
            found = self._normalize_over_ranks(x)
        outputs, mean, variance = found
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            batch = ops.stop_gradient(batch)
            moving.assign(self.momentum * moving + (1.0 - self.momentum) * batch)
        return ops.cast(outputs, self.compute_dtype)

    def _normalize_over_ranks(self, x):
        mean, variance = self._moments_over_ranks(x)
        scale = self.gamma * ops.rsqrt(variance + self.epsilon)
        return x * scale + (self.beta - mean * scale), mean, variance

    def _moments_over_ranks(self, x):
        # Squares around each rank's own mean, and how far the ranks' means are from the moving one:
        # neither loses digits where a mean is far from zero.
        axes, width = tuple(range(len(x.shape) - 1)), x.shape[-1]
        count = ops.cast(ops.prod(ops.shape(x)[:-1]), "float32")
        mean = ops.mean(x, axes)
        squares = ops.sum(ops.square(x - mean), axes)
        shift = ops.stop_gradient(ops.convert_to_tensor(self.moving_mean))
        distance = mean - shift
        sums = [count * distance, squares + count * ops.square(distance), count[None]]
        sums = self.sum_over_ranks(ops.concatenate(sums))
        offset = sums[:width] / sums[-1]
        variance = sums[width : 2 * width] / sums[-1] - ops.square(offset)
        return shift + offset, ops.maximum(variance, 0.0)

    def get_config(self):
        """Returns the constructor's arguments."""
        inherited = super().get_config()
        names = ("name", "dtype", "trainable", "epsilon")
        return {**{name: inherited[name] for name in names}, "zero_init": self.zero_init}


class ConvolutionNorm(keras.layers.Layer):
    """Convolution without bias and batch norm, padded by half a kernel on every side.

    Output size: `ceil(size / strides)`.

    Args:
        filters: output channels.
        kernel_size: odd.
        strides: of both directions.
        epsilon: of the batch norm.
        zero_init: whether the scale of the batch norm starts at zero.
    """

    def __init__(
        self, filters, kernel_size=1, strides=1, epsilon=EPSILON, zero_init=False, **kwargs
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.epsilon = epsilon
        self.zero_init = zero_init

    def build(self, inputs_shape):
        """Builds for inputs of `[B, H, W, C]`."""
        policy = self.dtype_policy
        # With a stride, "same" pads even sizes at the far side only.
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
        """Maps `[B, H, W, C]` to `[B, H', W', filters]`."""
        x = inputs if self.padding is None else self.padding(inputs)
        return self.normalization(self.convolution(x), training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        names = "filters kernel_size strides epsilon zero_init".split()
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


class ConvolutionBlock(keras.layers.Layer):
    """Bottleneck residual block whose 3x3 convolution may also read the other branch.

    Output size: `ceil(size / strides)`.

    Args:
        filters: output channels, a multiple of four.
        strides: of the 3x3 and of the residual convolution.
        project_residual: whether the shortcut is a convolution; otherwise shapes must agree.
        drop_path_rate: of the branch beside the shortcut.
        zero_init_last_batch_norm: whether the block starts as its shortcut.

    Source: Peng et al., Conformer (2021), section 3.2; He et al., Deep residual learning (2016).
    """

    def __init__(
        self,
        filters,
        strides=1,
        project_residual=False,
        drop_path_rate=0.0,
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
        """Builds for inputs of `[B, H, W, C]`."""
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
        """Convolves.

        Args:
            inputs: `[B, H, W, C]`.
            added: `[B, H, W, filters / 4]` from the other branch, or None.
            training: whether drop path and batch moments are active.

        Returns:
            `[B, H', W', filters]`, and the bottleneck's `[B, H', W', filters / 4]`.
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
