"""Loss scaling for mixed precision training in float16."""

import tensorflow as tf

from tools.training.config import LossScaleConfig

_LARGEST_SCALE, SMALLEST_SCALE = 2.0**24, 2.0**-24


class LossScale:
    """Factor of the loss that keeps small gradients representable in float16.

    A dynamic scale is halved after a step with non-finite gradients, and doubled after
    `growth_steps` finite steps in a row. Under other precisions the scale is 1.

    Args:
        config: section `training.loss_scale` of the config.
        precision: precision of training; only "mixed_float16" uses a scale.

    Attributes:
        active: whether a scale is used.
        dynamic: whether the scale changes.
        scale: scalar variable, the factor.
        finite_steps: scalar variable, number of finite steps in a row.
        variables: variables for a checkpoint, by name.

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
        """Updates a dynamic scale after a step.

        Args:
            finite: boolean scalar, whether the gradients of the step were finite.
        """
        if not self.dynamic:
            return
        grown = self.finite_steps + 1 >= self.growth_steps
        up = tf.where(grown, tf.minimum(self.scale * 2.0, _LARGEST_SCALE), self.scale)
        self.scale.assign(tf.where(finite, up, tf.maximum(self.scale * 0.5, SMALLEST_SCALE)))
        self.finite_steps.assign(tf.where(finite & ~grown, self.finite_steps + 1, 0))
