"""Converts an image file to the input of the model, with the results of Pillow and torchvision.

The format of a file is detected from its content; the file name does not matter. All images are
converted to 8-bit RGB: grayscale and CMYK are converted, 16-bit values are scaled to 8 bits,
transparent pixels are drawn on white, and of several frames or pages the first is used. As in
torchvision, the orientation in EXIF data is ignored, unless the preprocessing enables it.
"""

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from vision.config import PreprocessingConfig

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
_ORIENTATION = 0x0112  # tag of EXIF
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_ASPECT = 100  # long side / short side; resizing the short side also enlarges the long side
# Pillow warns from 89 million pixels on and raises from twice that number on. Both need only the
# header of the file, and both are treated as errors here.
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
warnings.simplefilter("error", Image.DecompressionBombWarning)
# Some files of ImageNet have damaged EXIF data, which is ignored.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
# Exceptions that the decoders of Pillow raise for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError)
_DAMAGED += (struct.error, zlib.error, OverflowError, MemoryError)


class ImageError(Exception):
    """An image that cannot be read.

    Attributes:
        path: path of the file.
        reason: short reason.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def read_image(path: str | Path, preprocessing: PreprocessingConfig) -> np.ndarray:
    """Reads, resizes, crops and normalizes an image.

    Args:
        path: path of the file.
        preprocessing: sizes, interpolation, mean and standard deviation.

    Returns:
        `[image_size, image_size, 3]` float32, RGB, normalized.

    Raises:
        ImageError: the file is not an image, is damaged or is too large.
    """
    return normalize(crop_image(path, preprocessing), preprocessing)


def crop_image(path: str | Path, preprocessing: PreprocessingConfig) -> np.ndarray:
    """Reads, resizes and crops an image; returns `[image_size, image_size, 3]` uint8, RGB."""
    image = read_rgb(path, preprocessing.exif_orientation)
    return np.asarray(_crop(image, preprocessing))


def read_rgb(
    source: str | Path | bytes | BinaryIO | np.ndarray, exif_orientation: bool = False
) -> Image.Image:
    """Reads an image and converts it to 8-bit RGB.

    Args:
        source: a path, the bytes of an image file, an open binary file, or an array `[H, W, 3]`
            uint8.
        exif_orientation: whether to rotate and mirror the image by the orientation in its EXIF
            data.

    Raises:
        ImageError: the source is not an image, is damaged or is too large.
    """
    is_path = isinstance(source, str | os.PathLike)
    path = os.fspath(source) if is_path else type(source).__name__
    try:
        if isinstance(source, np.ndarray):
            return _of_array(source)
        if isinstance(source, bytes | bytearray | memoryview):
            return _rgb(io.BytesIO(source), path, exif_orientation)
        if hasattr(source, "read"):
            content = source.read()
            if not content:
                raise ImageError(path, "the file is at its end: rewind it with seek(0)")
            return _rgb(io.BytesIO(content), path, exif_orientation)
        if isinstance(source, Image.Image):
            do = 'convert it with numpy.asarray(image.convert("RGB"))'
            raise ImageError(path, f"a PIL image: {do}")
        if not is_path:
            raise ImageError(path, "expected a path, bytes, a binary file or an array")
        if not Path(path).is_file():
            raise ImageError(path, "no such file" if not Path(path).exists() else "not a file")
        with open(path, "rb") as file:
            return _rgb(file, path, exif_orientation)
    except Image.UnidentifiedImageError:
        raise ImageError(path, f"not an image ({', '.join(FORMATS)})") from None
    except _TOO_LARGE:
        limit = Image.MAX_IMAGE_PIXELS // 10**6
        raise ImageError(path, f"more than {limit} million pixels") from None
    except _DAMAGED as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ImageError(path, reason or type(error).__name__) from error


def _of_array(array: np.ndarray) -> Image.Image:
    """Converts an array `[H, W, 3]` uint8 to an image; raises ImageError for other arrays."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        found = f"{array.dtype} {list(array.shape)}"
        raise ImageError("the array", f"expected uint8 [H, W, 3], received {found}")
    return Image.fromarray(array)


def _rgb(file: BinaryIO, path: str, exif_orientation: bool) -> Image.Image:
    """Opens the first frame of a file and converts it to 8-bit RGB."""
    with Image.open(file, formats=FORMATS) as stored:
        image = stored
        short, long = sorted(image.size)
        if long > MAX_ASPECT * short:
            raise ImageError(
                path, f"sides of {image.size}, an aspect ratio of more than {MAX_ASPECT} to 1"
            )
        if exif_orientation:
            image = _turned(image)
        if image.mode.startswith("I;16"):
            eighth = np.round(np.asarray(image) / 257).astype("uint8")
            return Image.fromarray(eighth).convert("RGB")
        if image.mode in ("I", "F"):
            raise ImageError(path, "32-bit samples")
        if image.has_transparency_data:
            opaque = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
        return image.convert("RGB")


def _turned(image: Image.Image) -> Image.Image:
    """Rotates and mirrors an image by its EXIF orientation; missing or damaged EXIF is ignored."""
    image.load()  # EXIF of PNG can follow the pixels; TIFF images are rotated by loading
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except _DAMAGED:
        return image
    transposition = _ORIENTATIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def _crop(image: Image.Image, preprocessing: PreprocessingConfig) -> Image.Image:
    """Resizes the short side and crops the center.

    Source: torchvision 0.15, `Resize` and `CenterCrop`.
    """
    width, height = image.size
    size, short = preprocessing.resized_size, min(width, height)
    width, height = (size if x == short else int(size * x / short) for x in (width, height))
    method = Image.Resampling[preprocessing.interpolation.upper()]
    image = image.resize((width, height), method)
    side = preprocessing.image_size
    left, top = (round((x - side) / 2) for x in (width, height))
    return image.crop((left, top, left + side, top + side))


def normalize(image: np.ndarray, preprocessing: PreprocessingConfig) -> np.ndarray:
    """Scales values to 0..1 and normalizes them by the mean and standard deviation of each channel.

    Args:
        image: `[..., 3]` uint8.
        preprocessing: mean and standard deviation of each channel.

    Returns:
        `[..., 3]` float32.
    """
    values = image.astype("float32")
    values /= np.float32(255)
    values -= np.asarray(preprocessing.mean, "float32")
    values /= np.asarray(preprocessing.std, "float32")
    return values
