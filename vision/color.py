"""Operations on the colors of an image, as Pillow's ImageOps and ImageEnhance do them.

All take and give uint8 `[H, W, 3]`. What changes a pixel by its own value alone is a table of 256
values, applied in one look-up.
"""

import tensorflow as tf

_VALUES = 256
# Of a smoothed image: the pixel itself counts five times, its eight neighbors once.
_CENTER_WEIGHT, _SMOOTH_SUM = 4.0, 13.0


def _levels() -> tf.Tensor:
    return tf.range(_VALUES, dtype=tf.int32)


def _look_up(image: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    """Replaces values by a table `[256]` of all channels or `[256, 3]`, clipped to 0..255."""
    table = tf.cast(tf.clip_by_value(table, 0, _VALUES - 1), tf.uint8)
    positions = tf.cast(image, tf.int32)
    if table.shape.rank == 2:
        positions = 3 * positions + tf.range(3)
        table = tf.reshape(table, [-1])
    return tf.gather(table, positions)


def _blend(degenerate: tf.Tensor, image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Goes from a degenerate image (factor 0) to the image (1) and beyond; fractions are cut."""
    degenerate = tf.cast(degenerate, tf.float32)
    values = degenerate + factor * (tf.cast(image, tf.float32) - degenerate)
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)


def _gray(image: tf.Tensor) -> tf.Tensor:
    """Luminance `[H, W]` int32 in 16 fractional bits, rounded.

    Source: ITU-R BT.601, as in Pillow.
    """
    values = tf.cast(image, tf.int32)
    weighted = 19595 * values[..., 0] + 38470 * values[..., 1] + 7471 * values[..., 2]
    return tf.bitwise.right_shift(weighted + 0x8000, 16)


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches every channel to the full range."""
    flat = tf.reshape(image, [-1, 3])
    low = tf.cast(tf.reduce_min(flat, 0), tf.float64)
    high = tf.cast(tf.reduce_max(flat, 0), tf.float64)
    # In Pillow's order of operations, whose rounding this has to follow.
    scale = 255.0 / tf.maximum(high - low, 1.0)
    levels = tf.cast(_levels(), tf.float64)[:, None]
    stretched = tf.cast(levels * scale + -low * scale, tf.int32)
    return _look_up(image, tf.where(high > low, stretched, _levels()[:, None]))


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Makes the histogram of every channel as flat as a table can."""
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
    """Makes the negative."""
    return 255 - image


def posterize(image: tf.Tensor, num_bits: tf.Tensor) -> tf.Tensor:
    """Keeps the highest bits of every value, `num_bits` [] int32 of 0..8."""
    mask = tf.bitwise.left_shift(255, 8 - num_bits)
    return tf.bitwise.bitwise_and(image, tf.cast(tf.bitwise.bitwise_and(mask, 255), tf.uint8))


def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Inverts the values from `threshold` [] int32 on."""
    levels = _levels()
    return _look_up(image, tf.where(levels < threshold, levels, 255 - levels))


def solarize_add(image: tf.Tensor, addition: tf.Tensor) -> tf.Tensor:
    """Adds `addition` [] int32 to the values below 128."""
    levels = _levels()
    return _look_up(image, tf.where(levels < 128, levels + addition, levels))


def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with black, `factor` [] float32 of the image."""
    return _look_up(image, tf.cast(_blend(tf.zeros([]), _levels(), factor), tf.int32))


def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the mean gray."""
    gray = _gray(image)
    count = tf.size(gray)
    # Half of a gray level is rounded up; the sum of 2900 x 2900 pixels still fits.
    mean = (tf.reduce_sum(gray) + count // 2) // count
    return _look_up(image, tf.cast(_blend(mean, _levels(), factor), tf.int32))


def color(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the gray image."""
    return _blend(_gray(image)[..., None], image, factor)


def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Blends with the smoothed image; the outermost pixels are not smoothed."""
    values = tf.cast(image, tf.float32)
    rows = values[:-2] + values[1:-1] + values[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + _CENTER_WEIGHT * values[1:-1, 1:-1]
    smooth = tf.floor(total / _SMOOTH_SUM + 0.5)
    inside = _blend(smooth, image[1:-1, 1:-1], factor)
    middle = tf.concat([image[1:-1, :1], inside, image[1:-1, -1:]], 1)
    return tf.concat([image[:1], middle, image[-1:]], 0)
