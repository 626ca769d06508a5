"""Tests preprocessing of images: equal to Pillow's, also for unusual and broken files."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.errors import refused
from vision.config import PreprocessingConfig, load_config
from vision.images import ImageError, crop_image, read_image, read_rgb

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Files that MANIFEST.md calls valid or optional; all others must be refused.
ACCEPTED = (
    "corrupt_middle.jpg cmyk.jpg gray.jpg gray_16bit.png rgb_16bit.png alpha.png gray_alpha.png "
    "palette_transparent.png gif_named.jpg animated.gif webp_named.jpg png_named.JPEG image.bmp "
    "two_pages.tiff progressive.jpg exif_rotated.jpg trailing_garbage.jpg one_by_one.png "
    "one_by_one.jpg"
).split()


def reference(path, short=256, side=224, method=Image.BICUBIC):
    """Computes the preprocessing of torchvision with PIL and NumPy, float32 CHW."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    if width <= height:
        size = (short, int(short * height / width))
    else:
        size = (int(short * width / height), short)
    pixels = np.asarray(image.resize(size, method))
    top = int(round((pixels.shape[0] - side) / 2.0))  # noqa: RUF046
    left = int(round((pixels.shape[1] - side) / 2.0))  # noqa: RUF046
    pixels = pixels[top : top + side, left : left + side]
    planes = [
        (pixels[..., c].astype(np.float32) / np.float32(255) - np.float32(MEAN[c]))
        / np.float32(STD[c])
        for c in range(3)
    ]
    return np.stack(planes)


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (301, 299), (256, 256), (97, 40), (1, 1)])
def test_equal_to_the_recipe_byte_for_byte(size, rng, tmp_path):
    path = tmp_path / "image.jpg"
    pixels = rng.integers(0, 256, (*size[::-1], 3)).astype("uint8")
    Image.fromarray(pixels).save(path, quality=90)
    found = read_image(path, PreprocessingConfig())
    assert found.dtype == np.float32
    assert found.transpose(2, 0, 1).tobytes() == reference(path).tobytes()


# What EXIF's orientations 1 to 8 do to an array, by the places of the first row and column in its
# definition: 1 top left, 2 top right, 3 bottom right, 4 bottom left, 5 left top, 6 right top ...
TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
    9: lambda x: x,
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("kind", ["png", "webp"])
def test_orientation_in_exif(orientation, kind, rng, tmp_path):
    pixels, path = rng.integers(0, 256, (5, 7, 3)).astype("uint8"), tmp_path / "a"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, kind, exif=exif, lossless=True)
    np.testing.assert_array_equal(read_rgb(path), pixels)
    np.testing.assert_array_equal(read_rgb(path, True), TURNS[orientation](pixels))
    config = PreprocessingConfig(image_size=4, crop_pct=1.0, exif_orientation=True)
    turned = crop_image(path, config)
    Image.fromarray(TURNS[orientation](pixels)).save(tmp_path / "b", "png")
    np.testing.assert_array_equal(turned, crop_image(tmp_path / "b", config))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # as in programs
def test_damaged_exif_leaves_an_image_as_it_is(rng, tmp_path):
    pixels = rng.integers(0, 256, (5, 7, 3)).astype("uint8")
    for number, exif in enumerate(
        (b"Exif\0\0MM\0*\0\0\0\x08\0", b"Exif\0\0??", b"Exif\0\0II*\0\xff" * 3)
    ):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path, exif=exif)
        np.testing.assert_array_equal(read_rgb(path, True), pixels)


@pytest.mark.parametrize(
    ("options", "short", "side", "method"),
    [
        ({"crop_pct": 0.96}, 233, 224, Image.BICUBIC),
        ({"interpolation": "bilinear"}, 256, 224, Image.BILINEAR),
        ({"image_size": 384, "crop_pct": 1.0}, 384, 384, Image.BICUBIC),
        ({"image_size": 64}, 73, 64, Image.BICUBIC),
    ],
)
def test_share_of_the_crop_and_interpolation(options, short, side, method, rng, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(rng.integers(0, 256, (321, 457, 3)).astype("uint8")).save(path)
    found = read_image(path, PreprocessingConfig(**options))
    expected = reference(path, short, side, method)
    assert found.transpose(2, 0, 1).tobytes() == expected.tobytes()


def test_real_photographs(shared_data):
    photos = sorted((shared_data / "photos_train" / "val").glob("*/*.jpg"))[::40]
    assert photos
    for path in photos:
        found = read_image(path, PreprocessingConfig()).transpose(2, 0, 1)
        assert found.tobytes() == reference(path).tobytes(), path


def test_every_shared_image_is_read_or_refused_with_a_reason(shared_data):
    folder = shared_data / "bad_inputs" / "images"
    names = {path.name for path in folder.iterdir()}
    assert set(ACCEPTED) < names
    for name in sorted(names):
        if name in ACCEPTED:
            image = crop_image(folder / name, PreprocessingConfig())
            assert image.shape == (224, 224, 3) and image.dtype == np.uint8, name
            assert np.array_equal(image, crop_image(folder / name, PreprocessingConfig())), name
            continue
        with pytest.raises(ImageError) as caught:
            read_image(folder / name, PreprocessingConfig())
        assert caught.value.reason and "\n" not in str(caught.value), name
        assert name in str(caught.value)


def test_a_bomb_is_refused_by_its_header(shared_data):
    folder = shared_data / "bad_inputs" / "images"
    for name in ("bomb_20000x20000_1bit.png", "bomb_header_60000x60000.png"):
        with pytest.raises(ImageError, match="million pixels"):
            read_image(folder / name, PreprocessingConfig())


@pytest.fixture
def gradient():
    """Returns an image `[60, 80, 3]` of smooth colors."""
    rows, columns = np.mgrid[0:60, 0:80]
    return np.stack([rows * 4, columns * 3, 255 - columns * 3], -1).astype("uint8")


def middle(image, tmp_path, **options):
    """Saves a PIL image, reads it, and returns the mean color."""
    path = tmp_path / f"image.{options.pop('suffix', 'png')}"
    image.save(path, **options)
    return crop_image(path, PreprocessingConfig()).astype(float).mean((0, 1))


def test_odd_images_look_as_in_a_viewer(gradient, tmp_path):
    plain = Image.fromarray(gradient)
    expected = middle(plain, tmp_path)
    cmyk = middle(plain.convert("CMYK"), tmp_path, suffix="jpg", quality=95)
    np.testing.assert_allclose(cmyk, expected, atol=3)
    palette = middle(plain.convert("P"), tmp_path)
    np.testing.assert_allclose(palette, expected, atol=20)
    gray = middle(plain.convert("L"), tmp_path)
    assert gray[0] == gray[1] == gray[2]
    sixteen = Image.fromarray(np.asarray(plain.convert("L")).astype("uint16") * 257)
    np.testing.assert_array_equal(middle(sixteen, tmp_path), gray)


def test_what_is_transparent_lies_over_white(gradient, tmp_path):
    plain = Image.fromarray(gradient)
    opaque, half = plain.copy(), plain.copy()
    opaque.putalpha(255)
    half.putalpha(128)
    expected = middle(plain, tmp_path)
    np.testing.assert_allclose(middle(opaque, tmp_path), expected)
    np.testing.assert_allclose(middle(half, tmp_path), (expected + 255) / 2, atol=1.5)
    plain.putalpha(0)
    np.testing.assert_array_equal(middle(plain, tmp_path), [255] * 3)
    levels = Image.new("L", (9, 9), 7)
    np.testing.assert_array_equal(middle(levels, tmp_path, transparency=7), [255] * 3)


def test_the_first_frame_counts(gradient, tmp_path):
    frames = [Image.new("RGB", (40, 40), color) for color in ("red", "blue")]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(crop_image(path, PreprocessingConfig())[0, 0], [255, 0, 0])


def test_orientation_is_ignored(gradient, tmp_path):
    plain = Image.fromarray(gradient)
    tags = Image.Exif()
    tags[0x0112] = 6
    for name, options in (("plain.png", {}), ("turned.png", {"exif": tags})):
        plain.save(tmp_path / name, **options)
    images = [crop_image(tmp_path / x, PreprocessingConfig()) for x in ("plain.png", "turned.png")]
    np.testing.assert_array_equal(*images)


# The module sets this filter as well, but pytest resets filters.
quiet = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.TiffImagePlugin")


@quiet
def test_damaged_exif_does_not_matter(gradient, tmp_path):
    path = tmp_path / "image.jpg"
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x0f\x01\x02\0\xff\0\0\0\xff\0\0\0"
    Image.fromarray(gradient).save(path, quality=95, exif=damaged)
    assert damaged in path.read_bytes()
    assert crop_image(path, PreprocessingConfig()).shape == (224, 224, 3)


@quiet
def test_every_cut_of_a_file_is_a_reason(gradient, tmp_path):
    for kind in ("png", "jpeg", "gif", "webp", "tiff", "bmp"):
        content = io.BytesIO()
        Image.fromarray(gradient).save(content, kind)
        content = content.getvalue()
        for length in (0, 1, 10, 40, len(content) // 3, len(content) // 2):
            path = tmp_path / f"cut.{kind}"
            path.write_bytes(content[:length])
            with pytest.raises(ImageError) as caught:
                read_image(path, PreprocessingConfig())
            assert caught.value.reason


def test_no_file_no_image(tmp_path):
    for path, reason in ((tmp_path / "none.jpg", "no such file"), (tmp_path, "not a file")):
        with pytest.raises(ImageError, match=reason):
            read_image(path, PreprocessingConfig())


@pytest.mark.parametrize(
    "overrides",
    [
        {"preprocessing.crop_pct": "1.5"},
        {"preprocessing.image_size": "0"},
        {"preprocessing.std": "1,0,1"},
        {"preprocessing.mean": "1"},
        {"preprocessing.interpolation": "cubic"},
        {"preprocessing.crop": "1"},
    ],
)
def test_bad_preprocessing(overrides):
    with refused():
        load_config(None, overrides)


def test_configurations(project):
    files = sorted((project / "configs" / "vision").glob("conformer_*.yml"))
    files = [file for file in files if file.stem != "conformer_mindspore"]
    assert [file.stem for file in files] == [
        "conformer_base", "conformer_small", "conformer_small_p32", "conformer_tiny",
    ]  # fmt: skip
    for file in files:
        config = load_config(file)
        assert config.preprocessing == PreprocessingConfig()
        assert config.preprocessing.resized_size == 256
        assert config.model.arch.startswith(file.stem.removesuffix("_p32"))
