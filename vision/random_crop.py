"""Reads a random crop of an image file and resizes it, for training."""

import math
import os

import numpy as np
import tensorflow as tf
from PIL import Image

from vision.images import MAX_ASPECT, ImageError, read_rgb

_ATTEMPTS = 10
_MIN_RATIO, _MAX_RATIO = 3 / 4, 4 / 3
_METHODS = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic"}
_METHODS["lanczos"] = "lanczos3"


def draw_crop(size: tf.Tensor, min_area: float, seed: tf.Tensor) -> tf.Tensor:
    """Draws a random crop of an image.

    Args:
        size: `[2]` int32, height and width of the image.
        min_area: smallest area of the crop / area of the image; the largest is 1.
        seed: `[2]` integers.

    Returns:
        `[4]` int32: top, left, height and width of the crop, inside the image.

    Source: Szegedy et al., Going deeper with convolutions (2014), section 6; torchvision 0.15,
        `RandomResizedCrop`: ten attempts, then the largest center crop with an allowed aspect
        ratio.
    """
    uniforms = tf.random.stateless_uniform([4, _ATTEMPTS], seed)
    height, width = tf.cast(size[0], tf.float32), tf.cast(size[1], tf.float32)
    area = height * width * (min_area + (1.0 - min_area) * uniforms[0])
    low, high = math.log(_MIN_RATIO), math.log(_MAX_RATIO)
    ratio = tf.exp(low + (high - low) * uniforms[1])
    heights, widths = tf.round(tf.sqrt(area / ratio)), tf.round(tf.sqrt(area * ratio))
    fits = (heights >= 1) & (heights <= height) & (widths >= 1) & (widths <= width)
    first = tf.argmax(fits)
    # The largest crop whose aspect ratio is in the allowed range.
    whole_height = tf.minimum(height, tf.round(width / _MIN_RATIO))
    whole_width = tf.minimum(width, tf.round(height * _MAX_RATIO))
    found = fits[first]
    high, wide = (
        tf.where(found, heights[first], whole_height),
        tf.where(found, widths[first], whole_width),
    )
    free = tf.stack([height - high, width - wide])
    place = tf.where(
        found,
        tf.minimum(tf.floor((free + 1.0) * uniforms[2:, first]), free),
        tf.floor(free / 2.0),
    )
    return tf.cast(tf.concat([place, [high, wide]], 0), tf.int32)


def resize(image: tf.Tensor, side: int, interpolation: str) -> tf.Tensor:
    """Resizes `[H, W, 3]` uint8 to `[side, side, 3]` uint8 with antialiasing, as Pillow does."""
    resized = tf.image.resize(image, [side, side], _METHODS[interpolation], antialias=True)
    if resized.dtype != tf.uint8:
        resized = tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)
    return resized


def random_crops(
    path: tf.Tensor,
    side: int,
    interpolation: str,
    min_area: float,
    *,
    seed: tf.Tensor,
    exif_orientation: bool = False,
) -> tf.data.Dataset:
    """Reads a random crop of an image file, for use inside `Dataset.interleave`.

    Unreadable images do not raise an error, which would stop the pipeline. Of a JPEG file with one
    or three channels, only the crop is decoded. A truncated file therefore still gives the crops
    above the place where it ends. All other files, and those that TensorFlow cannot decode, are
    read with Pillow as in evaluation, which also gives the reason if a file is unreadable.

    Args:
        path: [] string, path of the file.
        side: height and width of the result in pixels.
        interpolation: interpolation of the resizing.
        min_area: see `draw_crop`.
        seed: `[2]` integers.
        exif_orientation: see `images.read_rgb`. If set, all files are read with Pillow.

    Returns:
        A dataset of one element: `image` `[side, side, 3]` uint8 and `reason` [] string, the reason
        why the image could not be read. The image is then black. For other images it is empty.
    """

    def by_pillow(path_bytes: bytes) -> tuple[np.ndarray, bytes]:
        try:
            image = read_rgb(os.fsdecode(path_bytes), exif_orientation)
            return np.asarray(image), b""
        except ImageError as error:
            return np.zeros([1, 1, 3], np.uint8), error.reason.encode("utf-8", "replace")

    def pillow_element(_: tf.Tensor) -> dict[str, tf.Tensor]:
        image, reason = tf.numpy_function(by_pillow, [path], (tf.uint8, tf.string))
        image = tf.ensure_shape(image, [None, None, 3])
        top, left, height, width = tf.unstack(draw_crop(tf.shape(image)[:2], min_area, seed))
        part = image[top : top + height, left : left + width]
        return {
            "image": resize(part, side, interpolation),
            "reason": tf.ensure_shape(reason, []),
        }

    def jpeg_element(content: tf.Tensor) -> dict[str, tf.Tensor]:
        size = tf.io.extract_jpeg_shape(content)[:2]
        crop = draw_crop(size, min_area, seed)
        # The default DCT method of TensorFlow differs by up to 5 levels and is not faster here.
        part = tf.io.decode_and_crop_jpeg(content, crop, channels=3, dct_method="INTEGER_ACCURATE")
        return {"image": resize(part, side, interpolation), "reason": tf.constant("")}

    def is_plain_jpeg(content: tf.Tensor) -> tf.Tensor:
        return tf.equal(tf.strings.substr(content, 0, 3), b"\xff\xd8\xff")

    def is_plain_size(content: tf.Tensor) -> tf.Tensor:
        height, width, channels = tf.unstack(tf.io.extract_jpeg_shape(content, tf.int64))
        short, long = tf.minimum(height, width), tf.maximum(height, width)
        sane = (height * width <= Image.MAX_IMAGE_PIXELS) & (long <= MAX_ASPECT * short)
        return sane & ((channels == 1) | (channels == 3))

    once = tf.data.Dataset.from_tensors(0)
    if exif_orientation:
        return once.map(pillow_element)
    content = once.map(lambda _: tf.io.read_file(path))
    jpeg = content.filter(is_plain_jpeg).filter(is_plain_size).map(jpeg_element)
    jpeg = jpeg.ignore_errors(log_warning=False)
    return jpeg.concatenate(once.map(pillow_element)).take(1)
