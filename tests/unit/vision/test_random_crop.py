"""Tests random crops of images: their positions, and equality with Pillow."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import stats

from vision.images import ImageError, read_rgb
from vision.random_crop import draw_crop, random_crops


def crops_of(height, width, min_area, count=3000):
    """Returns the crops for many seeds, `[count, 4]`."""
    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(7, tf.int64), i]))
    found = seeds.map(lambda seed: draw_crop(tf.constant([height, width]), min_area, seed))
    return next(iter(found.batch(count))).numpy()


def test_areas_and_ratios_are_uniform():
    # Crops of up to half of a square fit with all ratios, so none is drawn again.
    side = 2000
    top, left, height, width = crops_of(side, side, 0.08).T
    assert np.all((top >= 0) & (left >= 0) & (top + height <= side) & (left + width <= side))
    area, ratio = height * width / side**2, width / height
    assert ratio.min() >= 0.749
    assert ratio.max() <= 1.334
    small = area < 0.5
    assert stats.kstest(area[small], stats.uniform(0.08, 0.42).cdf).pvalue > 1e-4
    logs = np.log(ratio[small])
    assert stats.kstest(logs, stats.uniform(np.log(3 / 4), 2 * np.log(4 / 3)).cdf).pvalue > 1e-4
    assert area.min() >= 0.0795
    assert area.max() > 0.95
    # Small crops are rarely drawn again, so their areas are nearly uniform.
    assert np.mean(small) == pytest.approx(0.42 / 0.92, abs=0.08)
    for place, free in ((top, side - height), (left, side - width)):
        shares = (place[small] + 0.5) / (free[small] + 1)
        assert stats.kstest(shares, stats.uniform().cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (100, 1000, (0, 433, 100, 133)),
        (1000, 100, (433, 0, 133, 100)),
        (1, 1, (0, 0, 1, 1)),
        (1, 40, (0, 19, 1, 1)),
    ],
)
def test_no_allowed_part_gives_the_middle(height, width, expected):
    # The whole of a long image, or a single row of pixels, has no allowed ratio.
    found = crops_of(height, width, 1.0, 20)
    assert {tuple(row) for row in found} == {expected}


def read_all(paths, side=24, interpolation="bicubic", min_area=0.3, **options):
    """Reads files in one dataset; the index of a file is its seed."""
    names = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    dataset = names.enumerate().interleave(
        lambda number, path: random_crops(
            path,
            side,
            interpolation,
            min_area,
            seed=tf.stack([tf.constant(1, tf.int64), number]),
            **options,
        )
    )
    return [(found["image"], found["reason"].decode()) for found in dataset.as_numpy_iterator()]


def by_pillow(image, side=24, interpolation="bicubic", min_area=0.3, number=0):
    width, height = image.size
    seed = tf.constant([1, number], tf.int64)
    top, left, high, wide = draw_crop(tf.constant([height, width]), min_area, seed).numpy().tolist()
    part = image.crop((left, top, left + wide, top + high))
    return np.asarray(part.resize((side, side), Image.Resampling[interpolation.upper()]))


@pytest.fixture(scope="module")
def photograph():
    """Returns an image of 90 x 130 pixels with smooth colors and an edge."""
    down, right = np.mgrid[:90, :130]
    values = np.stack([2 * down, right + down // 2, 200 - right], -1)
    values[30:60, 40:90] = 255 - values[30:60, 40:90]
    return Image.fromarray(values.astype("uint8"))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("side", [24, 160])
def test_jpeg_like_pillow(photograph, tmp_path, side, interpolation):
    photograph.save(tmp_path / "a.jpg", quality=95)
    options = {"side": side, "interpolation": interpolation}
    for number, (found, reason) in enumerate(read_all([tmp_path / "a.jpg"] * 4, **options)):
        expected = by_pillow(Image.open(tmp_path / "a.jpg"), **options, number=number)
        difference = np.abs(found.astype(int) - expected)
        assert reason == ""
        # At the edge, Pillow has seen colors of outside of the part; and it rounds between the
        # two passes of resizing.
        inside = difference[side // 6 : -side // 6, side // 6 : -side // 6]
        if interpolation == "nearest":  # a place between two pixels may go either way
            assert np.mean(inside > 2) < 0.05
        else:
            assert inside.max() <= 2
            assert inside.mean() < 0.3


FORMATS = {
    "gray.jpg": lambda x: x.convert("L"),
    "cmyk.jpg": lambda x: x.convert("CMYK"),
    "rgb.png": lambda x: x,
    "palette.png": lambda x: x.convert("P"),
    "alpha.png": lambda x: Image.merge("RGBA", [*x.split(), x.split()[1]]),
    "gray16.png": lambda x: Image.fromarray(np.asarray(x.convert("L")).astype("uint16") * 257),
    "still.gif": lambda x: x.convert("P"),
    "a.bmp": lambda x: x,
    "a.webp": lambda x: x,
    "a.tiff": lambda x: x,
}


def test_formats_as_in_evaluation(photograph, tmp_path):
    paths = []
    for name, change in FORMATS.items():
        change(photograph).save(tmp_path / name)
        # The format is detected from the content of the file.
        paths.append((tmp_path / name).rename(tmp_path / f"{name}.jpg"))
    for number, (found, reason) in enumerate(read_all(paths)):
        assert reason == ""
        difference = np.abs(found.astype(int) - by_pillow(read_rgb(paths[number]), number=number))
        assert difference[4:-4, 4:-4].max() <= 2, paths[number]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_orientation_in_exif_is_obeyed_where_asked(photograph, tmp_path, suffix):
    exif = Image.Exif()
    exif[274] = 6  # a quarter to the right
    photograph.save(tmp_path / f"a.{suffix}", exif=exif)
    ((found, reason),) = read_all([tmp_path / f"a.{suffix}"], exif_orientation=True)
    with Image.open(tmp_path / f"a.{suffix}") as stored:
        expected = by_pillow(stored.rotate(-90, expand=True))
    difference = np.abs(found.astype(int) - expected)
    assert reason == "" and difference[4:-4, 4:-4].max() <= 2


def test_orientation_in_exif_is_ignored(photograph, tmp_path):
    photograph.save(tmp_path / "a.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(tmp_path / "b.jpg", quality=95, exif=exif)
    (plain, _), (turned, _) = (read_all([tmp_path / name])[0] for name in ("a.jpg", "b.jpg"))
    np.testing.assert_array_equal(plain, turned)


def test_what_cannot_be_read_is_told(photograph, tmp_path):
    photograph.save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "header.jpg").write_bytes(content[:20])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    Image.new("L", (1, 300)).save(tmp_path / "thin.jpg")
    expected = {
        "half": "truncated",
        "header": "",
        "text": "not an image",
        "empty": "not an image",
        "thin": "100 to 1",
        "gone": "no such file",
    }
    found = read_all([tmp_path / f"{name}.jpg" for name in expected], min_area=1.0)
    for words, (image, reason) in zip(expected.values(), found, strict=True):
        assert reason
        assert words in reason
        assert not image.any()


def test_shared_images(shared_data):
    """Unusual and broken files: the same files are refused as in evaluation."""
    folder = shared_data / "bad_inputs" / "images"
    paths = sorted(x for x in folder.rglob("*") if x.is_file())
    reasons = [reason for _, reason in read_all(paths, min_area=1.0)]
    for path, reason in zip(paths, reasons, strict=True):
        try:
            read_rgb(path)
            expected = ""
        except ImageError as error:
            expected = error.reason
        assert reason == expected, path
    assert 3 < sum(map(bool, reasons)) < len(reasons) - 3


def test_ten_parts_are_tried_before_the_middle_is_taken():
    # Few crops of nearly the whole square fit; the others are drawn again.
    found = crops_of(1000, 1000, 0.9, 1000)
    middle = np.all(found == (0, 0, 1000, 1000), axis=1).mean()
    rng = np.random.default_rng(0)
    area = rng.uniform(0.9, 1.0, (20000, 10))
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), area.shape))
    fits = (area * ratio <= 1.0) & (area / ratio <= 1.0)
    assert 0.05 < np.mean(~fits.any(axis=1)) < np.mean(~fits[:, :7].any(axis=1)) - 0.05
    assert middle == pytest.approx(np.mean(~fits.any(axis=1)), abs=0.04)
