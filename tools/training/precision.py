"""Loss scaling for float16 gradients: dynamic or fixed, one implementation under every policy."""

import tensorflow as tf

from tools.training.config import LossScaleConfig

_LARGEST_SCALE, SMALLEST_SCALE = 2.0**24, 2.0**-24


class LossScale:
    """Keeps small gradients representable in float16 by a factor on the loss.

    Dynamic: halved by a step with non-finite gradients, doubled after `growth_steps` finite ones in
    a row. The two variables are part of a checkpoint.

    Source: Micikevicius et al., Mixed precision training (2018), section 3.2.
    """

    def __init__(self, config: LossScaleConfig, precision: str):
        self.active = precision == "mixed_float16"
        self.dynamic = self.active and config.mode == "dynamic"
        self.growth_steps = config.growth_steps
        self.scale = tf.Variable(config.initial if self.active else 1.0, trainable=False)
        self.finite_steps = tf.Variable(0, trainable=False)
        self.variables = {"scale": self.scale, "finite_steps": self.finite_steps}

    def update(self, finite: tf.Tensor) -> None:
        """Follows a step, `finite` telling whether all its gradients were."""
        if not self.dynamic:
            return
        grown = self.finite_steps + 1 >= self.growth_steps
        up = tf.where(grown, tf.minimum(self.scale * 2.0, _LARGEST_SCALE), self.scale)
        self.scale.assign(tf.where(finite, up, tf.maximum(self.scale * 0.5, SMALLEST_SCALE)))
        self.finite_steps.assign(tf.where(finite & ~grown, self.finite_steps + 1, 0))
