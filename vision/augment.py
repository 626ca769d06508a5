"""RandAugment in a TensorFlow graph: random operations of random strength for each image.

All random numbers are functions of a seed argument, so that the same seed gives the same result.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from vision import color, warping
from vision.augmentation_config import MAX_MAGNITUDE, RandAugment

_MAX_DEGREES = 30.0
_MAX_SHEAR = 0.3
_MAX_TRANSLATION = 0.45  # fraction of the width or height
_MAX_ENHANCEMENT = 0.9  # largest difference of a factor from 1
_MIN_FACTOR = 0.1
_NUM_BITS = 4
_MAX_ADDITION = 110


class Operation(NamedTuple):
    """One operation of RandAugment.

    Attributes:
        name: name in timm without "Increasing" and "Rel".
        argument: function `(strength, sign) -> argument of apply`, where the strength is 0 to 1
            (larger with `mmax`) and the sign is -1 or 1; None if `apply` has no argument.
        apply: function `(image)` or `(image, argument)` that returns the changed image.
        weight: weight in the random choice of operations (set 0 of timm).
    """

    name: str
    argument: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None
    apply: Callable[..., tf.Tensor]
    weight: float


def _steps(strength: tf.Tensor, number: int) -> tf.Tensor:
    return tf.cast(strength * number, tf.int32)


def operations(increasing: bool, interpolation: str, fill: tuple[int, int, int]) -> list[Operation]:
    """Returns the fifteen operations of RandAugment.

    Args:
        increasing: True: color operations change the image more with growing strength. False: they
            go from one end of their range to the other.
        interpolation: "nearest", "bilinear" or "bicubic", for operations that move pixels.
        fill: RGB color of pixels whose source is outside the image.

    Source: timm 1.0, `_RAND_TRANSFORMS` and `_RAND_INCREASING_TRANSFORMS`.
    """

    def warp(function):
        return lambda image, amount: function(image, amount, interpolation, fill)

    def signed(most):
        return lambda strength, sign: sign * strength * most

    if increasing:

        def factor(strength, sign):
            return tf.maximum(_MIN_FACTOR, 1.0 + sign * strength * _MAX_ENHANCEMENT)

        def bits(strength, sign):
            return _NUM_BITS - _steps(strength, _NUM_BITS)

        def threshold(strength, sign):
            return 256 - _steps(strength, 256)
    else:

        def factor(strength, sign):
            return strength * 2 * _MAX_ENHANCEMENT + _MIN_FACTOR

        def bits(strength, sign):
            return _steps(strength, _NUM_BITS)

        def threshold(strength, sign):
            return _steps(strength, 256)

    return [
        Operation("AutoContrast", None, color.auto_contrast, 0.025),
        Operation("Equalize", None, color.equalize, 0.005),
        Operation("Invert", None, color.invert, 0.0),
        Operation("Rotate", signed(_MAX_DEGREES), warp(warping.rotate), 0.3),
        Operation("Posterize", bits, color.posterize, 0.0),
        Operation("Solarize", threshold, color.solarize, 0.005),
        Operation("SolarizeAdd", lambda s, _: _steps(s, _MAX_ADDITION), color.solarize_add, 0.005),
        Operation("Color", factor, color.color, 0.025),
        Operation("Contrast", factor, color.contrast, 0.005),
        Operation("Brightness", factor, color.brightness, 0.005),
        Operation("Sharpness", factor, color.sharpness, 0.025),
        Operation("ShearX", signed(_MAX_SHEAR), warp(warping.shear_x), 0.2),
        Operation("ShearY", signed(_MAX_SHEAR), warp(warping.shear_y), 0.2),
        Operation("TranslateX", signed(_MAX_TRANSLATION), warp(warping.translate_x), 0.1),
        Operation("TranslateY", signed(_MAX_TRANSLATION), warp(warping.translate_y), 0.1),
    ]


class Draws(NamedTuple):
    """The operations that RandAugment applies to one image, in this order.

    Attributes:
        operations: `[N]` int32 indices of operations. An index equal to the number of operations
            leaves the image unchanged.
        strengths: `[N]` float32, magnitude / 10.
        signs: `[N]` float32, -1 or 1.
    """

    operations: tf.Tensor
    strengths: tf.Tensor
    signs: tf.Tensor


class RandAugmentation:
    """Applies a RandAugment policy to images.

    Args:
        policy: the policy.
        interpolation: "nearest", "bilinear" or "bicubic", for operations that move pixels.
        fill: RGB color of pixels whose source is outside the image.

    Source: Cubuk et al., RandAugment (2019); timm 1.0, `RandAugment` and `AugmentOp`.
    """

    def __init__(self, policy: RandAugment, interpolation: str, fill: tuple[int, int, int]):
        self.policy = policy
        self.operations = operations(policy.increasing, interpolation, fill)
        # One trace serves all operations of an image: tracing fifteen branches takes seconds.
        self._step = tf.function(self._apply_one, autograph=False)

    def draw(self, seed: tf.Tensor) -> Draws:
        """Draws the operations and strengths for one image from a seed `[2]`."""
        policy, count = self.policy, self.policy.num_operations
        uniforms = tf.random.stateless_uniform([4, max(count, len(self.operations))], seed)
        choice, applied, sign, spread = uniforms[0], *tf.unstack(uniforms[1:, :count])
        if policy.weighted:
            # The operations with the largest u^(1/weight) are a weighted choice without
            # replacement.
            weights = tf.constant([max(o.weight, 1e-30) for o in self.operations])
            keys = tf.math.log(choice[: len(self.operations)]) / weights
            chosen = tf.math.top_k(keys, count).indices
        else:
            chosen = tf.cast(choice[:count] * len(self.operations), tf.int32)
        if math.isinf(policy.magnitude_std):
            magnitudes = spread * policy.magnitude
        else:
            # The inverted seed gives normal numbers that are independent of the uniform ones.
            normal = tf.random.stateless_normal([count], tf.bitwise.invert(seed))
            magnitudes = policy.magnitude + policy.magnitude_std * normal
        magnitudes = tf.clip_by_value(magnitudes, 0.0, policy.max_magnitude)
        return Draws(
            tf.where(applied < policy.probability, chosen, len(self.operations)),
            magnitudes / MAX_MAGNITUDE,
            tf.where(sign < 0.5, -1.0, 1.0),
        )

    def apply(self, image: tf.Tensor, draws: Draws) -> tf.Tensor:
        """Applies drawn operations to an image `[H, W, 3]` uint8; returns the same shape."""
        for number in range(self.policy.num_operations):
            image = self._step(image, *(drawn[number] for drawn in draws))
        return image

    def _apply_one(self, image, index, strength, sign):
        def branch(operation):
            if operation.argument is None:
                return operation.apply(image)
            return operation.apply(image, operation.argument(strength, sign))

        branches = [lambda o=operation: branch(o) for operation in self.operations]
        return tf.switch_case(index, [*branches, lambda: tf.identity(image)])

    def describe(self, draws: Draws) -> list[str]:
        """Returns the names and arguments of drawn operations. Call it outside a graph."""
        found = []
        for index, strength, sign in zip(*(x.numpy() for x in draws), strict=True):
            if index < len(self.operations):
                operation = self.operations[index]
                words = [operation.name]
                if operation.argument is not None:
                    words.append(f"{float(operation.argument(strength, sign)):.3g}")
                found.append(" ".join(words))
        return found


def jitter_colors(image: tf.Tensor, amount: float, seed: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast and color saturation in random order.

    Args:
        image: `[H, W, 3]` uint8.
        amount: the factors are drawn from `[1 - amount, 1 + amount]`.
        seed: `[2]` integers.

    Returns:
        `[H, W, 3]` uint8.

    Source: torchvision 0.15, `ColorJitter`, without hue.
    """
    changes = (color.brightness, color.contrast, color.color)
    uniforms = tf.random.stateless_uniform([2, len(changes)], seed)
    factors = tf.maximum(0.0, 1.0 + amount * (2.0 * uniforms[0] - 1.0))
    order = tf.argsort(uniforms[1])
    for number in range(len(changes)):
        factor, image_now = factors[number], image
        branches = [lambda c=c, i=image_now, f=factor: c(i, f) for c in changes]
        image = tf.switch_case(order[number], branches)
    return image
