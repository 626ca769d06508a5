"""Random parts of images: where they lie, and that they are read as Pillow reads them."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from scipy import stats

from vision.images import read_rgb
from vision.random_crop import draw_crop, random_crops


def crops_of(height, width, min_area, count=3000):
    """Crops of many seeds, `[count, 4]`."""
    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(7, tf.int64), i]))
    found = seeds.map(lambda seed: draw_crop(tf.constant([height, width]), min_area, seed))
    return next(iter(found.batch(count))).numpy()


def test_areas_and_ratios_are_uniform():
    # Parts up to a half of a square fit at any ratio, so nothing is redrawn below that.
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
    # Small parts are rarely redrawn: their share is nearly that of the range.
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
    # All of a long image, or one pixel, has no allowed ratio.
    found = crops_of(height, width, 1.0, 20)
    assert {tuple(row) for row in found} == {expected}


def read(path, side=24, interpolation="bicubic", min_area=0.3, number=0):
    seed = tf.constant([1, number], tf.int64)
    dataset = random_crops(tf.constant(str(path)), side, interpolation, min_area, seed)
    (found,) = dataset.as_numpy_iterator()
    return found["image"], found["reason"].decode()


def by_pillow(image, side=24, interpolation="bicubic", min_area=0.3, number=0):
    width, height = image.size
    seed = tf.constant([1, number], tf.int64)
    top, left, high, wide = draw_crop(tf.constant([height, width]), min_area, seed).numpy().tolist()
    part = image.crop((left, top, left + wide, top + high))
    return np.asarray(part.resize((side, side), Image.Resampling[interpolation.upper()]))


@pytest.fixture(scope="module")
def photograph():
    """Smooth colors with an edge, 90 x 130."""
    down, right = np.mgrid[:90, :130]
    values = np.stack([2 * down, right + down // 2, 200 - right], -1)
    values[30:60, 40:90] = 255 - values[30:60, 40:90]
    return Image.fromarray(values.astype("uint8"))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("side", [24, 160])
def test_jpeg_like_pillow(photograph, tmp_path, side, interpolation):
    photograph.save(tmp_path / "a.jpg", quality=95)
    for number in range(4):
        options = {"side": side, "interpolation": interpolation, "number": number}
        found, reason = read(tmp_path / "a.jpg", **options)
        expected = by_pillow(Image.open(tmp_path / "a.jpg"), **options)
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


@pytest.mark.parametrize("name", FORMATS)
def test_formats_as_in_evaluation(photograph, tmp_path, name):
    path = tmp_path / name
    FORMATS[name](photograph).save(path)
    found, reason = read(path)
    assert reason == ""
    difference = np.abs(found.astype(int) - by_pillow(read_rgb(path)))
    assert difference[4:-4, 4:-4].max() <= 2
    # By its content, whatever it is called.
    path.rename(tmp_path / "renamed.jpg")
    np.testing.assert_array_equal(read(tmp_path / "renamed.jpg")[0], found)


def test_orientation_in_exif_is_ignored(photograph, tmp_path):
    photograph.save(tmp_path / "a.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(tmp_path / "b.jpg", quality=95, exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "b.jpg")[0], read(tmp_path / "a.jpg")[0])


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
    for name, words in expected.items():
        image, reason = read(tmp_path / f"{name}.jpg", min_area=1.0)
        assert reason
        assert words in reason
        assert not image.any()


def test_shared_images(shared_data):
    """The odd and broken ones: the same ones are refused as in evaluation."""
    from vision.images import ImageError

    folder = shared_data / "bad_inputs" / "images"
    seen = {True: 0, False: 0}
    for path in sorted(x for x in folder.rglob("*") if x.is_file()):
        try:
            read_rgb(path)
            fine = True
        except ImageError:
            fine = False
        _, reason = read(path, min_area=1.0)
        assert (not reason) == fine, (path.name, reason)
        seen[fine] += 1
    assert min(seen.values()) > 3
