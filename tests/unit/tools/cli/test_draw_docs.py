"""The program that draws the pictures of the docs: the box, the masks, the files."""

import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from tests.support.errors import refused
from tools.cli.draw_docs import draw_box, draw_spec_augment, main, mask, to_png


def test_the_box_is_brown_on_a_bright_table_and_always_the_same():
    image = np.asarray(draw_box(64)).astype(int)
    assert image.shape == (64, 64, 3)
    corner, middle = image[2, 2], image[38, 24]
    assert corner.min() > 200, "the table is bright"
    assert middle[0] > middle[1] > middle[2], "the box is brown"
    np.testing.assert_array_equal(image, np.asarray(draw_box(64)))


def test_masks_hide_whole_frames_and_bins(rng):
    features = rng.normal(size=(148, 48)).astype("float32")
    masked = mask(features, 1)
    hidden = masked == 0
    frames, bins = hidden.all(1), hidden.all(0)
    assert frames.any() or bins.any()
    np.testing.assert_array_equal(hidden, frames[:, None] | bins)
    np.testing.assert_array_equal(masked[~hidden], features[~hidden])
    assert (mask(features, 2) != masked).any()


def test_pictures_have_few_colors():
    figure = Figure((2, 1))
    figure.add_subplot().imshow(np.arange(10_000).reshape(100, 100), "jet")
    picture = Image.open(io.BytesIO(to_png(figure)))
    assert picture.format == "PNG" and picture.mode == "P"


def test_the_picture_of_masks_has_three_panels(rng):
    picture = Image.open(io.BytesIO(draw_spec_augment(rng.normal(size=(60, 48)))))
    assert picture.width == 800


def test_words_beside_flags_are_refused():
    with refused("flags only"):
        main(["docs"])
