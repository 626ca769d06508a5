"""The sheet of augmented variants."""

import numpy as np
import pytest
from PIL import Image

from tools.errors import UserError
from vision.augmentation_config import AugmentationConfig
from vision.config import PreprocessingConfig
from vision.images import normalize
from vision.show_augmentations import main, shown, variants

PREPROCESSING = PreprocessingConfig(image_size=24)


@pytest.fixture
def path(tmp_path, rng):
    place = tmp_path / "a.jpg"
    Image.fromarray(rng.integers(0, 256, (50, 60, 3)).astype("uint8")).save(place)
    return str(place)


def test_variants_and_their_names(path):
    config = AugmentationConfig(
        auto_augment="rand-m9-inc1-p1", min_crop=1.0, hflip=0.0, re_prob=0.0
    )
    found = variants(path, 6, 3, config, PREPROCESSING)
    assert len({image.tobytes() for image, _ in found}) == 6
    assert all(len(words) == 2 for _, words in found)
    # Like what RandAugment does, the rest depends on the seed and the number alone.
    plain = AugmentationConfig(auto_augment="none")
    several, two = (variants(path, count, 3, plain, PREPROCESSING) for count in (3, 2))
    assert [words for _, words in two] == [[], []]
    for (one, _), (other, _) in zip(several, two, strict=False):
        np.testing.assert_array_equal(one, other)


def test_what_is_shown_was_there_before_normalization(rng):
    values = rng.integers(0, 256, (8, 8, 3)).astype("uint8")
    np.testing.assert_array_equal(shown(normalize(values, PREPROCESSING), PREPROCESSING), values)


def test_program(path, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    flags = ["--auto_augment=none", "--count=3", "--image_size=16", "-o", str(sheet)]
    assert main([path, *flags]) == 0
    assert "3 variants" in capsys.readouterr().err
    found = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    assert found.std() > 10
    assert main([path, *flags, "--seed=5"]) == 0
    other = np.asarray(Image.open(sheet).convert("RGB")).astype(int)
    assert found.shape == other.shape
    assert np.abs(found - other).max() > 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one image"),
        (["--count=0", "{path}"], "--count"),
        (["{path}.gone"], "can be read"),
        (["--auto_augment=rand-z1", "{path}"], "auto_augment"),
    ],
)
def test_bad_input(path, arguments, message):
    with pytest.raises(UserError, match=message):
        main([word.format(path=path) for word in arguments])
