"""Color operations with the results of Pillow's `ImageOps` and `ImageEnhance`.

All functions map an image `[H, W, 3]` uint8 to an image of the same shape and dtype. Operations
that change each value independently of other pixels use a lookup table of 256 values.
"""

import tensorflow as tf

_VALUES = 256
# Smoothing kernel of Pillow: weight 5 for the pixel itself, 1 for each of its eight neighbors.
_CENTER_WEIGHT, _SMOOTH_SUM = 4.0, 13.0


def _levels() -> tf.Tensor:
    return tf.range(_VALUES, dtype=tf.int32)


def _look_up(image: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Replaces values by those of a table, `[256]` or `[256, 3]` per channel, clipped to 0..255."""
    table = tf.cast(tf.clip_by_value(table, 0, _VALUES - 1), tf.uint8)
    positions = tf.cast(image, tf.int32)
    if table.shape.rank == 2:
        positions = 3 * positions + tf.range(3)
        table = tf.reshape(table, [-1])
    return tf.gather(table, positions)


def _blend(degenerate: tf.Tensor, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Interpolates between a degenerate image (factor 0) and the image (factor 1).

    Factors above 1 extrapolate. Results are rounded down, as in Pillow.
    """
    degenerate = tf.cast(degenerate, tf.float32)
    values = degenerate + factor * (tf.cast(image, tf.float32) - degenerate)
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)


def _gray(image: tf.Tensor) -> tf.Tensor:
    """Returns the luminance `[H, W]` int32, 0 to 255.

    Source: ITU-R BT.601 with 16 fractional bits, rounded, as in Pillow.
    """
    values = tf.cast(image, tf.int32)
    weighted = 19595 * values[..., 0] + 38470 * values[..., 1] + 7471 * values[..., 2]
    return tf.bitwise.right_shift(weighted + 0x8000, 16)


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches the values of each channel to the range 0..255."""
    flat = tf.reshape(image, [-1, 3])
    low = tf.cast(tf.reduce_min(flat, 0), tf.float64)
    high = tf.cast(tf.reduce_max(flat, 0), tf.float64)
    # The order of operations is that of Pillow, because it determines the rounding.
    scale = 255.0 / tf.maximum(high - low, 1.0)
    levels = tf.cast(_levels(), tf.float64)[:, None]
    stretched = tf.cast(levels * scale + -low * scale, tf.int32)
    return _look_up(image, tf.where(high > low, stretched, _levels()[:, None]))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Equalizes the histogram of each channel."""
    positions = tf.cast(tf.reshape(image, [-1, 3]), tf.int32) + _VALUES * tf.range(3)
    counts = tf.math.bincount(tf.reshape(positions, [-1]), minlength=3 * _VALUES)
    counts = tf.transpose(tf.reshape(counts, [3, _VALUES]))
    brightest = tf.cast(tf.reduce_max(image, [0, 1]), tf.int32)
    num_brightest = tf.reduce_sum(tf.where(_levels()[:, None] == brightest, counts, 0), 0)
    step = (tf.reduce_sum(counts, 0) - num_brightest) // (_VALUES - 1)
    below = tf.cumsum(counts, exclusive=True)
    table = (step // 2 + below) // tf.maximum(step, 1)
    return _look_up(image, tf.where(step > 0, table, _levels()[:, None]))


def invert(image: tf.Tensor) -> tf.Tensor:
    """Inverts all values."""
    return 255 - image


def posterize(image: tf.Tensor, num_bits: tf.Tensor) -> tf.Tensor:
    """Keeps the highest `num_bits` ([] int32, 0..8) bits of each value."""
    mask = tf.bitwise.left_shift(255, 8 - num_bits)
    return tf.bitwise.bitwise_and(image, tf.cast(tf.bitwise.bitwise_and(mask, 255), tf.uint8))


def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Inverts the values that are at least `threshold` ([] int32)."""
    levels = _levels()
    return _look_up(image, tf.where(levels < threshold, levels, 255 - levels))


def solarize_add(image: tf.Tensor, addition: tf.Tensor) -> tf.Tensor:
    """Adds `addition` ([] int32) to the values below 128."""
    levels = _levels()
    return _look_up(image, tf.where(levels < 128, levels + addition, levels))


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Interpolates between black and the image by `factor` ([] float32)."""
    return _look_up(image, tf.cast(_blend(tf.zeros([]), _levels(), factor), tf.int32))


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Interpolates between the mean gray level and the image by `factor` ([] float32)."""
    gray = _gray(image)
    count = tf.size(gray)
    # Rounds half up. The int32 sum does not overflow up to 2900 x 2900 pixels.
    mean = (tf.reduce_sum(gray) + count // 2) // count
    return _look_up(image, tf.cast(_blend(mean, _levels(), factor), tf.int32))


def color(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Interpolates between the gray image and the image by `factor` ([] float32)."""
    return _blend(_gray(image)[..., None], image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Interpolates between the smoothed image and the image by `factor` ([] float32).

    The pixels at the border are not smoothed, as in Pillow.
    """
    values = tf.cast(image, tf.float32)
    rows = values[:-2] + values[1:-1] + values[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + _CENTER_WEIGHT * values[1:-1, 1:-1]
    smooth = tf.floor(total / _SMOOTH_SUM + 0.5)
    inside = _blend(smooth, image[1:-1, 1:-1], factor)
    middle = tf.concat([image[1:-1, :1], inside, image[1:-1, -1:]], 1)
    return tf.concat([image[:1], middle, image[-1:]], 0)
