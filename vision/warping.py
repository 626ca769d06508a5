"""Affine transforms with the results of Pillow's `Image.transform` and `Image.rotate`.

All functions map an image `[H, W, 3]` uint8 to an image of the same shape and dtype. Pixels whose
source is outside the image get the color `fill`. `interpolation` is "nearest", "bilinear" or
"bicubic".
"""

import math

import tensorflow as tf


def _bilinear(fraction: tf.Tensor) -> list[tf.Tensor]:
    return [1.0 - fraction, fraction]


def _bicubic(fraction: tf.Tensor) -> list[tf.Tensor]:
    """Returns the weights of four samples, for a position between the second and the third.

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


# Results are rounded down. This is added before, so that a whole number that float32 rounding made
# slightly smaller stays the same.
_ROUNDING = 2.0**-10
# Interpolation: (offset of the first sample from the sample left of or above the position, weights
# of the samples).
_KERNELS = {"bilinear": (0, _bilinear), "bicubic": (-1, _bicubic)}


def _samples(
    place: tf.Tensor, size: tf.Tensor, interpolation: str
) -> list[tuple[tf.Tensor, tf.Tensor | None]]:
    """Returns the positions and weights of the samples for interpolation along one axis.

    Args:
        place: float64 position in pixels; 0 is the center of the first pixel.
        size: number of pixels along the axis.
        interpolation: "nearest", "bilinear" or "bicubic".
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
    """Interpolates at positions inside the image and fills the other pixels.

    Args:
        image: `[H, W, 3]` uint8.
        inside: bool, broadcast to `[H, W]`; True where the source is inside the image.
        rows: positions and weights along the height, broadcast to `[H, W]`.
        columns: positions and weights along the width, broadcast to `[H, W]`.
        fill: RGB color of the other pixels.
    """
    width = tf.shape(image)[1]
    # Pack the channels of a pixel into one int32, so that there is one lookup for each pixel
    # instead of one for each channel.
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
    """Packs four uint8 into one int32; maps `[..., 4]` to `[...]`."""
    return tf.bitcast(image, tf.int32)


def _unpacked(pixels: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(pixels, tf.uint8)


def _axes(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns height, width, row positions `[H, 1]` and column positions `[1, W]` of the pixels."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    down = tf.cast(tf.range(height), tf.float64)[:, None] + 0.5
    right = tf.cast(tf.range(width), tf.float64)[None] + 0.5
    return height, width, down, right


def _within(place: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    return (place >= 0) & (place < tf.cast(size, tf.float64))


def _whole(size: tf.Tensor) -> tf.Tensor:
    return tf.range(size)


def _along_width(image, moved, interpolation: str, fill) -> tf.Tensor:
    """Samples every pixel `moved` (`[H, 1]` float64) pixels further right in its row."""
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
    """Samples every pixel `moved` (`[1, W]` float64) pixels further down in its column."""
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
    """Shears horizontally: samples each pixel `factor` ([]) times its row number further right."""
    down = _axes(image)[2]
    return _along_width(image, tf.cast(factor, tf.float64) * down, interpolation, fill)


def shear_y(image, factor, interpolation: str, fill) -> tf.Tensor:
    """Shears vertically: samples each pixel `factor` ([]) times its column number further down."""
    right = _axes(image)[3]
    return _along_height(image, tf.cast(factor, tf.float64) * right, interpolation, fill)


def translate_x(image, share, interpolation: str, fill) -> tf.Tensor:
    """Translates to the left by `share` ([]) of the width."""
    width = tf.cast(tf.shape(image)[1], tf.float64)
    moved = tf.cast(share, tf.float64) * width
    return _along_width(image, moved * tf.ones([1, 1], tf.float64), interpolation, fill)


def translate_y(image, share, interpolation: str, fill) -> tf.Tensor:
    """Translates upward by `share` ([]) of the height."""
    height = tf.cast(tf.shape(image)[0], tf.float64)
    moved = tf.cast(share, tf.float64) * height
    return _along_height(image, moved * tf.ones([1, 1], tf.float64), interpolation, fill)


def rotate(image, degrees, interpolation: str, fill) -> tf.Tensor:
    """Rotates the image counterclockwise about its center by `degrees` ([])."""
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
