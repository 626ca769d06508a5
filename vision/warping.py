"""Affine transforms of an image, as Pillow's `Image.transform` and `Image.rotate` do them.

All take and give uint8 `[H, W, 3]`. What would come from outside the image has the fill color.
"""

import math

import tensorflow as tf


def _bilinear(fraction: tf.Tensor) -> list[tf.Tensor]:
    return [1.0 - fraction, fraction]


def _bicubic(fraction: tf.Tensor) -> list[tf.Tensor]:
    """Weights of the four samples around a place between the middle two.

    Source: Keys, Cubic convolution interpolation (1981), with a = -1, as in Pillow's transforms
    (its resizing has a = -1/2).
    """
    x = fraction
    return [
        x * (x * (2.0 - x) - 1.0),
        x * x * (x - 2.0) + 1.0,
        x * (x * (1.0 - x) + 1.0),
        x * x * (x - 1.0),
    ]


# Fractions of a gray level are cut; what rounding in float32 took from a whole one is no fraction.
_ROUNDING = 2.0**-10
# The first of the samples, relative to the one left of or above the place, and their weights.
_KERNELS = {"bilinear": (0, _bilinear), "bicubic": (-1, _bicubic)}


def _samples(
    place: tf.Tensor, size: tf.Tensor, interpolation: str
) -> list[tuple[tf.Tensor, tf.Tensor | None]]:
    """Positions and weights of what is interpolated along one axis.

    Args:
        place: float64, in pixels from the middle of the first one.
        size: number of pixels.
        interpolation: nearest, bilinear or bicubic.
    """
    if interpolation == "nearest":
        nearest = tf.cast(tf.floor(place + 0.5), tf.int32)
        return [(tf.clip_by_value(nearest, 0, size - 1), None)]
    first, weights = _KERNELS[interpolation]
    whole = tf.floor(place)
    start = tf.cast(whole, tf.int32) + first
    fraction = tf.cast(place - whole, tf.float32)
    return [
        (tf.clip_by_value(start + number, 0, size - 1), weight)
        for number, weight in enumerate(weights(fraction))
    ]


def _gather(
    image: tf.Tensor,
    inside: tf.Tensor,
    rows: list[tuple[tf.Tensor, tf.Tensor | None]],
    columns: list[tuple[tf.Tensor, tf.Tensor | None]],
    *,
    fill: tuple[int, int, int],
) -> tf.Tensor:
    """Sums weighted samples where the place is inside the image.

    Args:
        image: uint8 `[H, W, 3]`.
        inside: bool, broadcast to `[H, W]`.
        rows: positions and weights along the height, broadcast to `[H, W]`.
        columns: the same along the width.
        fill: color elsewhere.
    """
    width = tf.shape(image)[1]
    # Four bytes are one number: one look-up and one choice for each pixel, not for each channel.
    pixels = tf.reshape(_packed(tf.pad(image, [[0, 0], [0, 0], [0, 1]])), [-1])

    def values(row, column):
        return tf.cast(_unpacked(tf.gather(pixels, row * width + column)), tf.float32)

    def weighted(samples, value_at):
        return tf.add_n([value_at(place) * weight[..., None] for place, weight in samples])

    (first_row, row_weight), (first_column, column_weight) = rows[0], columns[0]
    if row_weight is None and column_weight is None:
        total = tf.gather(pixels, first_row * width + first_column)
    else:
        if row_weight is None:
            total = weighted(columns, lambda column: values(first_row, column))
        elif column_weight is None:
            total = weighted(rows, lambda row: values(row, first_column))
        else:
            total = weighted(
                rows, lambda row: weighted(columns, lambda column: values(row, column))
            )
        total = _packed(tf.cast(tf.clip_by_value(total + _ROUNDING, 0.0, 255.0), tf.uint8))
    total = tf.where(inside, total, _packed(tf.constant([*fill, 0], tf.uint8)))
    return tf.ensure_shape(_unpacked(total)[..., :3], image.shape)


def _packed(image: tf.Tensor) -> tf.Tensor:
    """Makes one int32 of four uint8, `[..., 4]` to `[...]`."""
    return tf.bitcast(image, tf.int32)


def _unpacked(pixels: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(pixels, tf.uint8)


def _axes(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Numbers of pixels, and their middles: `[H, 1]` down and `[1, W]` to the right."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    down = tf.cast(tf.range(height), tf.float64)[:, None] + 0.5
    right = tf.cast(tf.range(width), tf.float64)[None] + 0.5
    return height, width, down, right


def _within(place: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return (place >= 0) & (place < tf.cast(size, tf.float64))


def _whole(size: tf.Tensor) -> tf.Tensor:
    return tf.range(size)


def _along_width(image, moved, interpolation: str, fill) -> tf.Tensor:
    """Takes every pixel from `moved` `[H, 1]` float64 further right in its row."""
    height, width, _, right = _axes(image)
    place = right + moved
    return _gather(
        image,
        _within(place, width),
        [(_whole(height)[:, None], None)],
        _samples(place - 0.5, width, interpolation),
        fill=fill,
    )


def _along_height(image, moved, interpolation: str, fill) -> tf.Tensor:
    """Takes every pixel from `moved` `[1, W]` float64 further down in its column."""
    height, width, down, _ = _axes(image)
    place = down + moved
    return _gather(
        image,
        _within(place, height),
        _samples(place - 0.5, height, interpolation),
        [(_whole(width)[None], None)],
        fill=fill,
    )


def shear_x(image, factor, interpolation: str, fill) -> tf.Tensor:
    """Takes pixels from `factor` [] times their height further right."""
    down = _axes(image)[2]
    return _along_width(image, tf.cast(factor, tf.float64) * down, interpolation, fill)


def shear_y(image, factor, interpolation: str, fill) -> tf.Tensor:
    """Takes pixels from `factor` [] times their column further down."""
    right = _axes(image)[3]
    return _along_height(image, tf.cast(factor, tf.float64) * right, interpolation, fill)


def translate_x(image, share, interpolation: str, fill) -> tf.Tensor:
    """Takes pixels from `share` [] of the width further right."""
    width = tf.cast(tf.shape(image)[1], tf.float64)
    moved = tf.cast(share, tf.float64) * width
    return _along_width(image, moved * tf.ones([1, 1], tf.float64), interpolation, fill)


def translate_y(image, share, interpolation: str, fill) -> tf.Tensor:
    """Takes pixels from `share` [] of the height further down."""
    height = tf.cast(tf.shape(image)[0], tf.float64)
    moved = tf.cast(share, tf.float64) * height
    return _along_height(image, moved * tf.ones([1, 1], tf.float64), interpolation, fill)


def rotate(image, degrees, interpolation: str, fill) -> tf.Tensor:
    """Turns the image about its middle, counterclockwise, by `degrees` []."""
    height, width, down, right = _axes(image)
    angle = -tf.cast(degrees, tf.float64) * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    middle_x, middle_y = tf.cast(width, tf.float64) / 2, tf.cast(height, tf.float64) / 2
    down, right = down - middle_y, right - middle_x
    x = cosine * right + sine * down + middle_x
    y = cosine * down - sine * right + middle_y
    return _gather(
        image,
        _within(x, width) & _within(y, height),
        _samples(y - 0.5, height, interpolation),
        _samples(x - 0.5, width, interpolation),
        fill=fill,
    )
