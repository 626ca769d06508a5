"""RandAugment in the graph: operations chosen and measured out afresh for each image.

Every random number is a function of the seed handed in, so what becomes of an image depends on
nothing else.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from vision import color, warping
from vision.augmentation_config import MAX_MAGNITUDE, RandAugment

_MAX_DEGREES = 30.0
_MAX_SHEAR = 0.3
_MAX_TRANSLATION = 0.45  # of the side
_MAX_ENHANCEMENT = 0.9  # away from the unchanged image
_MIN_FACTOR = 0.1
_NUM_BITS = 4
_MAX_ADDITION = 110


class Operation(NamedTuple):
    """One operation of RandAugment.

    Attributes:
        name: timm's, without its "Increasing" and "Rel".
        argument: of `apply`, from the strength (0 to 1, above 1 with `mmax`) and a sign (-1, 1);
            None: takes none.
        apply: the function `(image, argument)`.
        weight: of being chosen, in timm's set 0.
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
        increasing: whether colors change more with the strength, rather than go from one extreme
            of their range to the other.
        interpolation: nearest, bilinear or bicubic, of what moves pixels.
        fill: RGB of what comes into the image from outside.

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
    """What RandAugment does to one image, in order.

    Attributes:
        operations: `[N]` int32, the number of operations where there is none.
        strengths: `[N]` float32, the magnitude in tenths.
        signs: `[N]` float32, -1 or 1.
    """

    operations: tf.Tensor
    strengths: tf.Tensor
    signs: tf.Tensor


class RandAugmentation:
    """Applies a RandAugment policy.

    Args:
        policy: what to draw.
        interpolation: nearest, bilinear or bicubic.
        fill: RGB of what comes into the image from outside.

    Source: Cubuk et al., RandAugment (2019); timm 1.0, `RandAugment` and `AugmentOp`.
    """

    def __init__(self, policy: RandAugment, interpolation: str, fill: tuple[int, int, int]):
        self.policy = policy
        self.operations = operations(policy.increasing, interpolation, fill)
        # Traced once for all operations of an image; fifteen branches take seconds.
        self._step = tf.function(self._apply_one, autograph=False)

    def draw(self, seed: tf.Tensor) -> Draws:
        """Draws operations and their strengths from a seed `[2]`."""
        policy, count = self.policy, self.policy.num_operations
        uniforms = tf.random.stateless_uniform([4, max(count, len(self.operations))], seed)
        choice, applied, sign, spread = uniforms[0], *tf.unstack(uniforms[1:, :count])
        if policy.weighted:
            # The largest of u^(1/w) are a choice by weight that takes nothing twice.
            weights = tf.constant([max(o.weight, 1e-30) for o in self.operations])
            keys = tf.math.log(choice[: len(self.operations)]) / weights
            chosen = tf.math.top_k(keys, count).indices
        else:
            chosen = tf.cast(choice[:count] * len(self.operations), tf.int32)
        if math.isinf(policy.magnitude_std):
            magnitudes = spread * policy.magnitude
        else:
            # The seed of the uniform numbers with another key gives independent normal ones.
            normal = tf.random.stateless_normal([count], tf.bitwise.invert(seed))
            magnitudes = policy.magnitude + policy.magnitude_std * normal
        magnitudes = tf.clip_by_value(magnitudes, 0.0, policy.max_magnitude)
        return Draws(
            tf.where(applied < policy.probability, chosen, len(self.operations)),
            magnitudes / MAX_MAGNITUDE,
            tf.where(sign < 0.5, -1.0, 1.0),
        )

    def apply(self, image: tf.Tensor, draws: Draws) -> tf.Tensor:
        """Changes an image uint8 `[H, W, 3]`."""
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
        """Names what was drawn, with arguments, outside of a graph."""
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
    """Changes brightness, contrast and color, in random order, each by a factor of 1 +- `amount`.

    Args:
        image: uint8 `[H, W, 3]`.
        amount: largest change.
        seed: `[2]`.

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
