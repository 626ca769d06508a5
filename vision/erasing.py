"""Random erasing: fills random boxes of a normalized image with noise or a color."""

import math

import tensorflow as tf

from vision.augmentation_config import AugmentationConfig

_ATTEMPTS = 10
_MIN_AREA, _MAX_AREA = 0.02, 1 / 3  # area of all boxes together / area of the image
_MIN_RATIO, _MAX_RATIO = 0.3, 1 / 0.3  # height / width of a box


def draw_boxes(side: int, probability: float, max_count: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws random boxes in a square image.

    Args:
        side: side of the image in pixels.
        probability: probability that the image has boxes.
        max_count: largest number of boxes. The number is drawn from 1 to `max_count`, and the
            boxes share the area.
        seed: `[2]` integers.

    Returns:
        `[max_count, 4]` int32: top, left, height and width. Rows without a box have height 0.

    Source: Zhong et al., Random erasing data augmentation (2017); timm 1.0, `RandomErasing`: ten
        attempts for each box, which must be smaller than the image in both directions.
    """
    uniforms = tf.random.stateless_uniform([1 + 4 * max_count, _ATTEMPTS], seed)
    count = tf.floor(uniforms[0, 1] * max_count) + 1.0
    boxes = tf.reshape(uniforms[1:], [4, max_count, _ATTEMPTS])
    area = side * side * (_MIN_AREA + (_MAX_AREA - _MIN_AREA) * boxes[0]) / count
    low, high = math.log(_MIN_RATIO), math.log(_MAX_RATIO)
    ratio = tf.exp(low + (high - low) * boxes[1])
    heights, widths = tf.round(tf.sqrt(area * ratio)), tf.round(tf.sqrt(area / ratio))
    fits = (heights < side) & (widths < side)
    first = tf.argmax(fits, 1)[:, None]
    heights, widths, down, right, fits = (
        tf.gather(x, first, batch_dims=1)[:, 0] for x in (heights, widths, boxes[2], boxes[3], fits)
    )
    wanted = (uniforms[0, 0] < probability) & (tf.range(float(max_count)) < count) & fits
    tops = tf.minimum(tf.floor(down * (side - heights + 1.0)), side - heights)
    lefts = tf.minimum(tf.floor(right * (side - widths + 1.0)), side - widths)
    drawn = tf.stack([tops, lefts, heights, widths], 1)
    return tf.cast(tf.where(wanted[:, None], drawn, 0.0), tf.int32)


def erase(
    image: tf.Tensor, config: AugmentationConfig, box_seed: tf.Tensor, noise_seed: tf.Tensor
) -> tf.Tensor:
    """Fills random boxes of an image.

    Args:
        image: `[S, S, 3]` float32, normalized.
        config: `re_prob`, `re_count` and `re_mode` are used. `re_mode` "pixel" fills with normally
            distributed noise, "rand" with one normally distributed color for each box, "const"
            with 0, the mean color.
        box_seed: `[2]` integers, for the boxes.
        noise_seed: `[2]` integers, for the noise.

    Returns:
        `[S, S, 3]` float32.
    """
    if config.re_prob <= 0:
        return image
    side = image.shape[0]
    boxes = draw_boxes(side, config.re_prob, config.re_count, box_seed)
    for number in range(config.re_count):
        top, left, height, width = tf.unstack(boxes[number])

        def paste(image=image, top=top, left=left, height=height, *, width=width, number=number):
            margins = [[top, side - top - height], [left, side - left - width], [0, 0]]
            if config.re_mode == "const":
                content = tf.zeros([side, side, 3])
            else:
                size = [1, 1, 3] if config.re_mode == "rand" else [height, width, 3]
                seed = noise_seed + tf.constant([0, number], noise_seed.dtype) * 2**48
                content = tf.random.stateless_normal(size, seed)
                content = tf.pad(tf.broadcast_to(content, [height, width, 3]), margins)
            inside = tf.pad(tf.ones([height, width, 1], tf.bool), margins)
            return tf.ensure_shape(tf.where(inside, content, image), image.shape)

        image = tf.cond(height > 0, paste, lambda image=image: tf.identity(image))
    return image
