"""Tests RandAugment: which operations are drawn, how often and how strong; Pillow as reference."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from tools.training.task import Position, Shard
from vision.augment import Draws, RandAugmentation, jitter_colors
from vision.augmentation_config import AugmentationConfig, parse_rand_augment
from vision.config import PreprocessingConfig
from vision.input_pipeline import ImageFolder
from vision.show_augmentations import shown
from vision.training_data import training_data

FILL = (124, 116, 104)
NAMES = (
    "AutoContrast Equalize Invert Rotate Posterize Solarize SolarizeAdd Color Contrast Brightness "
    "Sharpness ShearX ShearY TranslateX TranslateY"
).split()


def augmentation(text):
    return RandAugmentation(parse_rand_augment(text), "bilinear", FILL)


def draw_many(text, count=4000):
    """Returns the draws for many seeds, computed in the graph of a dataset."""
    seeds = tf.data.Dataset.range(count).map(lambda i: tf.stack([tf.constant(5, tf.int64), i]))
    batches = seeds.map(augmentation(text).draw).batch(count)
    return Draws(*(x.numpy() for x in next(iter(batches))))


@pytest.fixture(scope="module")
def draws():
    return draw_many("rand-m9-mstd0.5-inc1")


def test_operations_are_chosen_evenly_and_for_themselves(draws):
    applied = draws.operations < len(NAMES)
    assert stats.binomtest(int(applied.sum()), applied.size, 0.5).pvalue > 1e-4
    for column in draws.operations.T:
        counts = np.bincount(column[column < len(NAMES)], minlength=len(NAMES))
        assert stats.chisquare(counts).pvalue > 1e-4
    both = draws.operations[applied.all(1)]
    pairs = np.histogram2d(both[:, 0], both[:, 1], bins=[range(16), range(16)])[0]
    assert stats.chi2_contingency(pairs).pvalue > 1e-4
    assert np.mean(both[:, 0] == both[:, 1]) == pytest.approx(1 / 15, abs=0.03)


def test_strengths_are_normal_around_the_magnitude_and_cut(draws):
    strengths = draws.strengths.ravel()
    assert strengths.max() == 1.0
    inside = strengths[strengths < 1]
    cut = stats.truncnorm(-np.inf, 2, loc=0.9, scale=0.05)
    assert stats.kstest(inside, cut.cdf).pvalue > 1e-4
    assert np.mean(strengths == 1) == pytest.approx(stats.norm.sf(2), abs=0.01)
    assert stats.binomtest(int((draws.signs > 0).sum()), draws.signs.size).pvalue > 1e-4
    assert abs(np.corrcoef(draws.signs.ravel(), strengths)[0, 1]) < 0.05
    # Whether an operation is applied is independent of its strength.
    assert stats.ks_2samp(strengths, strengths[draws.operations.ravel() < 15]).pvalue > 1e-4


def test_other_strengths():
    assert set(draw_many("rand-m7", 50).strengths.ravel()) == {np.float32(0.7)}
    uniform = draw_many("rand-m6-mstdinf").strengths.ravel()
    assert stats.kstest(uniform, stats.uniform(0, 0.6).cdf).pvalue > 1e-4
    assert draw_many("rand-m15-mmax20", 50).strengths.max() == np.float32(1.5)


def test_weighted_choice_takes_nothing_twice():
    found = draw_many("rand-n2-w0-p1").operations
    assert np.all(found[:, 0] != found[:, 1])
    assert not np.isin(found, [NAMES.index("Posterize"), NAMES.index("Invert")]).any()
    first = np.bincount(found[:, 0], minlength=15) / len(found)
    expected = {"Rotate": 0.3, "ShearX": 0.2, "ShearY": 0.2, "TranslateX": 0.1, "TranslateY": 0.1}
    expected |= {"Color": 0.025, "Sharpness": 0.025, "AutoContrast": 0.025}
    for name, share in expected.items():
        assert first[NAMES.index(name)] == pytest.approx(share, abs=0.03), name


# By hand from timm: level 9 of 10, and the sign.
ARGUMENTS = {
    True: {
        "Rotate": (27, -27), "Posterize": (1, 1), "Solarize": (26, 26), "SolarizeAdd": (99, 99),
        "Color": (1.81, 0.19), "Contrast": (1.81, 0.19), "Brightness": (1.81, 0.19),
        "Sharpness": (1.81, 0.19), "ShearX": (0.27, -0.27), "ShearY": (0.27, -0.27),
        "TranslateX": (0.405, -0.405), "TranslateY": (0.405, -0.405),
    },
    False: {
        "Rotate": (27, -27), "Posterize": (3, 3), "Solarize": (230, 230), "SolarizeAdd": (99, 99),
        "Color": (1.72, 1.72), "Contrast": (1.72, 1.72), "Brightness": (1.72, 1.72),
        "Sharpness": (1.72, 1.72), "ShearX": (0.27, -0.27), "ShearY": (0.27, -0.27),
        "TranslateX": (0.405, -0.405), "TranslateY": (0.405, -0.405),
    },
}  # fmt: skip


@pytest.mark.parametrize("increasing", [True, False])
def test_arguments_of_level_nine(increasing):
    found = augmentation(f"rand-inc{int(increasing)}").operations
    assert [operation.name for operation in found] == NAMES
    for operation in found:
        if operation.argument is None:
            assert operation.name in ("AutoContrast", "Equalize", "Invert")
            continue
        values = [float(operation.argument(tf.constant(0.9), tf.constant(s))) for s in (1.0, -1.0)]
        assert values == pytest.approx(ARGUMENTS[increasing][operation.name]), operation.name


def test_factors_stay_above_a_tenth():
    (brightness,) = (o for o in augmentation("rand-inc1").operations if o.name == "Brightness")
    assert float(brightness.argument(tf.constant(1.5), tf.constant(-1.0))) == pytest.approx(0.1)


def by_pillow(name, image, argument):
    """Reference: applies one operation with the argument that `describe` prints."""
    width, height = image.size
    options = {"resample": Image.Resampling.BILINEAR, "fillcolor": FILL}

    def affine(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, **options)

    table = [min(255, i + int(argument or 0)) if i < 128 else i for i in range(256)]
    return {
        "AutoContrast": lambda: ImageOps.autocontrast(image),
        "Equalize": lambda: ImageOps.equalize(image),
        "Invert": lambda: ImageOps.invert(image),
        "Rotate": lambda: image.rotate(argument, **options),
        "Posterize": lambda: ImageOps.posterize(image, int(argument)),
        "Solarize": lambda: ImageOps.solarize(image, int(argument)),
        "SolarizeAdd": lambda: image.point(3 * table),
        "Color": lambda: ImageEnhance.Color(image).enhance(argument),
        "Contrast": lambda: ImageEnhance.Contrast(image).enhance(argument),
        "Brightness": lambda: ImageEnhance.Brightness(image).enhance(argument),
        "Sharpness": lambda: ImageEnhance.Sharpness(image).enhance(argument),
        "ShearX": lambda: affine(1, argument, 0, 0, 1, 0),
        "ShearY": lambda: affine(1, 0, 0, argument, 1, 0),
        "TranslateX": lambda: affine(1, 0, argument * width, 0, 1, 0),
        "TranslateY": lambda: affine(1, 0, 0, 0, 1, argument * height),
    }[name]()


@pytest.fixture(scope="module")
def picture():
    """Returns a smooth image with different channels, which every operation changes."""
    down, right = np.mgrid[:32, :32]
    values = np.stack([40 + 4 * right, 30 + 5 * down, 20 + 3 * down + 3 * right], -1)
    return values.astype("uint8")


def test_epochs_of_the_input_pipeline(picture, tmp_path):
    """Compares every image with Pillow's result, so that draws that are frozen would be found."""
    count, augment = 300, augmentation("rand-n1-m9-inc1-p1")
    candidates = {}
    for operation in augment.operations:
        for sign in (1.0, -1.0):
            argument = operation.argument and float(
                operation.argument(tf.constant(0.9), tf.constant(sign))
            )
            made = by_pillow(operation.name, Image.fromarray(picture), argument)
            candidates[operation.name, sign] = np.asarray(made).astype(int)
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    folder = ImageFolder([str(path)] * count, [0] * count, {0: "a"})
    preprocessing = PreprocessingConfig(image_size=len(picture))
    off = {"min_crop": 1.0, "hflip": 0.0, "re_prob": 0.0, "mixup": 0.0, "cutmix": 0.0}
    config = AugmentationConfig(auto_augment="rand-n1-m9-inc1-p1", **off)
    data = training_data(
        folder,
        1,
        preprocessing,
        config,
        seed=9,
        shard=Shard(0, 1, 50),
        position=Position(),
        num_epochs=2,
        num_workers=2,
    )
    found = []
    for batch in data.dataset.as_numpy_iterator():
        for index, image in zip(batch["indices"], batch["images"], strict=True):
            pixels = shown(image, preprocessing).astype(int)
            distances = {key: np.abs(pixels - made).max() for key, made in candidates.items()}
            (name, _), distance = min(distances.items(), key=lambda item: item[1])
            assert distance <= 1
            found.append((index, NAMES.index(name)))
    epochs = np.array(found).reshape(2, count, 2)
    for epoch in epochs:
        counts = np.bincount(epoch[:, 1], minlength=len(NAMES))
        assert stats.chisquare(counts).pvalue > 1e-4, counts
    by_image = [epoch[epoch[:, 0].argsort(), 1] for epoch in epochs]
    again = np.mean(by_image[0] == by_image[1])
    neighbors = np.mean(epochs[0, 1:, 1] == epochs[0, :-1, 1])
    assert again == pytest.approx(1 / 15, abs=0.06), "an image meets other operations every epoch"
    assert neighbors == pytest.approx(1 / 15, abs=0.06)


def test_several_operations_follow_each_other(picture):
    augment = augmentation("rand-n3-m9-mstd0.5-inc1-p1")
    run = tf.function(augment.apply)
    compared = 0
    for number in range(12):
        drawn = augment.draw(tf.constant([3, number], tf.int64))
        found = run(picture, drawn).numpy().astype(int)
        expected = Image.fromarray(picture)
        for words in augment.describe(drawn):
            name, *argument = words.split()
            expected = by_pillow(name, expected, float(argument[0]) if argument else None)
        # Rounding of the printed argument, or one level before an equalization, can be amplified.
        difference = np.abs(found - np.asarray(expected))
        assert np.mean(difference > 6) < 0.03, augment.describe(drawn)
        compared += len(augment.describe(drawn))
    assert compared == 36


def test_color_jitter_has_every_order(picture, monkeypatch):
    orders = []
    for name in ("brightness", "contrast", "color"):

        def note(image, factor, name=name):
            orders.append(name)
            return image

        monkeypatch.setattr(f"vision.augment.color.{name}", note)
    for number in range(300):
        jitter_colors(picture, 0.4, tf.constant([4, number], tf.int64))
    triples = list(zip(orders[::3], orders[1::3], orders[2::3], strict=True))
    assert len(triples) == 300
    counts = [triples.count(triple) for triple in set(triples)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-4


def test_color_jitter_changes_three_things_within_its_range(picture):
    gray = np.full((8, 8, 3), 100, "uint8")
    levels = []
    for number in range(200):
        found = jitter_colors(gray, 0.4, tf.constant([1, number], tf.int64)).numpy()
        assert len(np.unique(found)) == 1  # contrast and color leave a gray image as it is
        levels.append(found[0, 0, 0] / 100)
    assert stats.kstest(levels, stats.uniform(0.6, 0.8).cdf).pvalue > 1e-4
    colored = jitter_colors(picture, 0.4, tf.constant([1, 0], tf.int64)).numpy()
    assert np.any(colored != picture)
    many = {jitter_colors(picture, 0.4, tf.constant([2, i])).numpy().tobytes() for i in range(9)}
    assert len(many) == 9
