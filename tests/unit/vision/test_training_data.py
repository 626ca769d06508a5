"""Tests training data: the same images and numbers on any number of processes, from any step."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import vision.training_data as training_module
from tests.support.errors import refused
from tools.training.task import Position, Shard
from vision.augment import Draws
from vision.augmentation_config import AugmentationConfig
from vision.config import PreprocessingConfig
from vision.data_plan import rank_places
from vision.images import normalize
from vision.input_pipeline import ImageFolder
from vision.mixing import draw_mixing
from vision.training_data import ImageAugmentation, image_seed, training_data

COUNT, NUM_CLASSES = 13, 3
PREPROCESSING = PreprocessingConfig(image_size=16, std=(0.2, 0.3, 0.25))
# Tracing RandAugment takes seconds, so most tests use color jitter instead.
FAST = {"auto_augment": "none", "color_jitter": 0.4}
PLAIN = {"auto_augment": "none", "mixup": 0.0, "cutmix": 0.0, "re_prob": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes thirteen images of different colors."""
    place, rng, paths = tmp_path_factory.mktemp("images"), np.random.default_rng(0), []
    for number in range(COUNT):
        path = place / f"{number}.{('jpg', 'png')[number % 2]}"
        color = [15 * number, 100, 200 - 15 * number]
        values = color + rng.integers(0, 40, (20 + number, 30, 3))
        Image.fromarray(values.astype("uint8")).save(path)
        paths.append(str(path))
    labels = [number % NUM_CLASSES for number in range(COUNT)]
    return ImageFolder(paths, labels, {0: "a", 1: "b", 2: "c"})


def make_data(
    folder, rank=0, size=1, batch_size=4, position=None, num_epochs=2, seed=1, workers=2, **config
):
    return training_data(
        folder,
        NUM_CLASSES,
        PREPROCESSING,
        AugmentationConfig(**config),
        seed=seed,
        shard=Shard(rank, size, batch_size),
        position=position or Position(),
        num_epochs=num_epochs,
        num_workers=workers,
    )


def batches_of(data):
    return list(data.dataset.as_numpy_iterator())


def assert_same_batches(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], name)


@pytest.fixture(scope="module")
def whole(folder):
    """Returns two epochs of one process."""
    return batches_of(make_data(folder, **FAST))


def test_batches(folder, whole):
    data = make_data(folder, **FAST)
    assert [data.num_steps(epoch) for epoch in (0, 1)] == [4, 4]
    assert data.remaining_steps == len(whole) == 8
    for batch in whole:
        assert batch["images"].shape == (4, 16, 16, 3)
        assert batch["targets"].shape == (4, NUM_CLASSES)
        for name in ("labels", "indices"):
            assert batch[name].dtype == np.int32
        for name in ("images", "targets", "weights"):
            assert batch[name].dtype == np.float32
            assert np.all(np.isfinite(batch[name]))
        np.testing.assert_array_equal(batch["weights"], 1)
        np.testing.assert_array_equal(batch["labels"], batch["indices"] % NUM_CLASSES)
        np.testing.assert_allclose(batch["targets"].sum(1), 1, atol=1e-6)
    for epoch in (whole[:4], whole[4:]):
        indices = np.concatenate([batch["indices"] for batch in epoch])
        assert set(indices) == set(range(COUNT))
        # The last batch is filled with other variants of the first images.
        np.testing.assert_array_equal(indices[COUNT:], indices[: 16 - COUNT])
    orders = [np.concatenate([b["indices"] for b in part]) for part in (whole[:4], whole[4:])]
    assert np.any(orders[0] != orders[1])
    other = next(make_data(folder, seed=2, **FAST).dataset.as_numpy_iterator())
    assert np.any(other["images"] != whole[0]["images"])


def test_any_number_of_workers_gives_the_same(folder, whole):
    assert_same_batches(batches_of(make_data(folder, workers=5, **FAST)), whole)


def test_the_whole_recipe_resumed_by_more_workers(folder):
    found = batches_of(make_data(folder, position=Position(0, ((4, 2),)), num_epochs=1, workers=5))
    assert_same_batches(found, batches_of(make_data(folder, num_epochs=1))[2:])


@pytest.mark.parametrize("num_steps", [3, 4, 6])
def test_a_resumed_run_is_as_if_it_had_not_stopped(folder, whole, num_steps):
    epoch, step = divmod(num_steps, 4)
    if num_steps == 4:  # saved before the loop has counted the epoch
        epoch, step = 0, 4
    data = make_data(folder, position=Position(epoch, ((4, step),)), **FAST)
    assert data.num_steps(epoch) == 4 - step
    assert data.remaining_steps == 8 - num_steps
    assert_same_batches(batches_of(data), whole[num_steps:])


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
def test_two_processes_see_what_one_does(folder, mode):
    config = {"auto_augment": "none", "mixup_mode": mode, "num_epochs": 1}
    if mode != "batch":
        config |= {"re_prob": 0.0}  # erasing does not depend on the mode of mixing
    one = batches_of(make_data(folder, batch_size=8, **config))
    two = [batches_of(make_data(folder, rank, 2, 4, **config)) for rank in (0, 1)]
    assert len(one) == len(two[0]) == len(two[1]) == 2
    for step, batch in enumerate(one):
        places = [rank_places(Shard(rank, 2, 4)) for rank in (0, 1)]
        assert sorted(np.concatenate(places)) == list(range(8))
        for rank in (0, 1):
            for name, values in two[rank][step].items():
                np.testing.assert_array_equal(values, batch[name][places[rank]], name)


def test_a_run_goes_on_with_another_batch_size(folder):
    first = batches_of(make_data(folder, 0, 1, 4, num_epochs=1, **PLAIN))[:2]
    rest = [
        batch
        for rank in (0, 1)
        for batch in batches_of(
            make_data(folder, rank, 2, 3, Position(0, ((4, 2),)), num_epochs=1, **PLAIN)
        )
    ]
    indices = np.concatenate([batch["indices"] for batch in first + rest])
    assert set(indices) == set(range(COUNT))
    assert len(indices) == 8 + 6
    with refused("completed before the run was stopped"):
        make_data(folder, position=Position(0, ((4, 5),)), **PLAIN)


def test_a_finished_run_has_no_batches(folder):
    data = make_data(folder, position=Position(2), **PLAIN)
    assert data.remaining_steps == 0
    assert batches_of(data) == []


def test_variants_of_an_image_differ(folder):
    config = PLAIN | {"repeated_augmentation": 4, "batch_size": 4, "num_epochs": 1}
    (batch, *_) = batches_of(make_data(folder, **config))
    assert len(set(batch["indices"])) == 1
    assert len({image.tobytes() for image in batch["images"]}) == 4


def test_without_augmentation_an_image_is_only_normalized(folder, tmp_path):
    values = np.random.default_rng(1).integers(0, 256, (16, 16, 3)).astype("uint8")
    Image.fromarray(values).save(tmp_path / "a.png")
    single = ImageFolder([str(tmp_path / "a.png")], [1], {1: "b"})
    config = PLAIN | {"min_crop": 1.0, "label_smoothing": 0.3, "batch_size": 16, "num_epochs": 1}
    expected = normalize(values, PREPROCESSING)
    (batch,) = batches_of(make_data(single, hflip=0.0, **config))
    # With full area, no ratio except 1 fits, so that the whole square is used.
    for image in batch["images"]:
        np.testing.assert_allclose(image, expected, atol=1e-5)
    np.testing.assert_allclose(batch["targets"], [[0.1, 0.8, 0.1]] * 16, rtol=1e-6)
    (batch,) = batches_of(make_data(single, hflip=0.5, **config))
    flipped = [np.allclose(image, expected[:, ::-1], atol=1e-5) for image in batch["images"]]
    plain = [np.allclose(image, expected, atol=1e-5) for image in batch["images"]]
    assert np.all(np.array(flipped) ^ np.array(plain))
    assert 2 <= sum(flipped) <= 14


def test_mixing_ends(folder):
    config = {"auto_augment": "none", "mixup_off_epoch": 1, "label_smoothing": 0.0}
    found = batches_of(make_data(folder, **config))
    hot = [np.isin(batch["targets"], (0, 1)).all() for batch in found]
    assert not all(hot[:4])
    assert all(hot[4:])


def test_images_that_cannot_be_read_are_masked_and_named_once(folder, tmp_path, caplog):
    paths = list(folder.paths)
    (tmp_path / "broken.jpg").write_text("nothing")
    paths[2], paths[5] = str(tmp_path / "broken.jpg"), str(tmp_path / "gone.jpg")
    broken = ImageFolder(paths, folder.labels, folder.classes)
    data = make_data(broken, mixup_mode="elem", auto_augment="none")
    with caplog.at_level(logging.WARNING):
        for batch in data.dataset:
            assert data.names(batch) == [paths[index] for index in batch["indices"].numpy()]
            bad = np.isin(batch["indices"].numpy(), (2, 5))
            np.testing.assert_array_equal(batch["weights"].numpy(), ~bad)
            np.testing.assert_array_equal(batch["reason"].numpy() != b"", bad)
            assert not np.any(batch["images"].numpy()[bad])
            # Partners of unreadable images are not mixed: their targets are only smoothed.
            alone = batch["targets"].numpy()[bad | bad[::-1]]
            labels = batch["labels"].numpy()[bad | bad[::-1]]
            np.testing.assert_allclose(alone, 0.1 / 3 + 0.9 * np.eye(3)[labels], rtol=1e-5)
    messages = sorted(record.getMessage() for record in caplog.records)
    assert messages == sorted(
        [
            f"dropped {paths[2]}: not an image (JPEG, PNG, GIF, BMP, WEBP, TIFF)",
            f"dropped {paths[5]}: no such file",
        ]
    )


def test_every_use_of_random_numbers_has_a_seed_of_its_own(monkeypatch):
    """All variants of all images of two epochs differ in crop, flip, colors, box and noise."""
    seen = []

    def note(*arguments, **named):
        given = (*arguments, *named.values())
        seen.extend(tuple(x.numpy()) for x in given if getattr(x, "dtype", None) == tf.int64)
        return arguments[0]

    for name in ("random_crops", "erase", "jitter_colors"):
        monkeypatch.setattr(training_module, name, note)
    augment = ImageAugmentation(AugmentationConfig(**FAST), PREPROCESSING)
    monkeypatch.setattr(
        tf.random, "stateless_uniform", lambda shape, seed: note(tf.constant(0.0), seed)
    )
    image = tf.zeros([16, 16, 3], tf.uint8)
    for epoch_seed in (5, 6):
        for index in (0, 1, 12):
            for repetition in (0, 1, 2):
                numbers = (tf.constant(x, tf.int64) for x in (epoch_seed, index, repetition))
                seed = image_seed(*numbers)
                augment.crop(tf.constant("path"), seed)
                augment.finish(augment.change(image, seed), seed)
    assert len(seen) == len(set(seen)) == 2 * 3 * 3 * 5


def test_mixing_is_drawn_anew_for_every_step_and_epoch(folder, monkeypatch):
    drawn = []

    def note(config, side, num_rows, epoch, generator):
        drawn.append((epoch, generator.bit_generator.state["state"]["state"]))
        return draw_mixing(config, side, num_rows, epoch, generator=generator)

    monkeypatch.setattr(training_module, "draw_mixing", note)
    config = {"auto_augment": "none", "re_prob": 0.0}
    for seed in (1, 2):
        batches_of(make_data(folder, seed=seed, **config))
    assert [epoch for epoch, _ in drawn] == [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4
    assert len({state for _, state in drawn}) == 16


def test_interpolations_of_the_recipe(tmp_path):
    """Crops use the interpolation of preprocessing, moved pixels that of augmentation."""
    values = np.where(np.mgrid[:40, :40][0] < 20, 0, 255).astype("uint8")
    Image.fromarray(np.stack([values] * 3, -1)).save(tmp_path / "a.png")
    levels = {}
    for name in ("nearest", "bilinear"):
        preprocessing = PreprocessingConfig(image_size=16, interpolation=name, mean=(0.0,) * 3)
        other = {"nearest": "bilinear", "bilinear": "nearest"}[name]
        config = AugmentationConfig(aa_interpolation=other, hflip=0.0)
        augment = ImageAugmentation(config, preprocessing)
        seed = tf.constant([1, 2], tf.int64)
        (found,) = augment.crop(tf.constant(str(tmp_path / "a.png")), seed)
        (rotate,) = (o for o in augment.rand_augment.operations if o.name == "Rotate")
        turned = rotate.apply(values[12:28, 12:28, None].repeat(3, axis=2), tf.constant(20.0))
        levels[name, "crop"] = len(np.unique(found["image"]))
        levels[other, "turn"] = len(np.unique(turned))
    assert levels["nearest", "crop"] == levels["nearest", "turn"] == 2
    assert levels["bilinear", "crop"] > 2 and levels["bilinear", "turn"] > 2


def test_too_few_classes(folder):
    with refused("classes"):
        training_data(
            folder,
            2,
            PREPROCESSING,
            AugmentationConfig(),
            seed=0,
            shard=Shard(0, 1, 2),
            position=Position(),
            num_epochs=1,
        )


def test_an_odd_batch_is_not_mixed(folder):
    with refused("batch_size"):
        make_data(folder, batch_size=3)
    assert make_data(folder, batch_size=3, **PLAIN).num_steps(0) == 5


def test_what_comes_into_an_image_from_outside_has_the_mean_color():
    preprocessing = PreprocessingConfig(image_size=16, mean=(0.2, 0.4, 0.8))
    augment = ImageAugmentation(AugmentationConfig(auto_augment="rand-n1"), preprocessing)
    names = [operation.name for operation in augment.rand_augment.operations]
    number = tf.constant([names.index("TranslateX")])
    for sign, outside in ((1.0, -1), (-1.0, 0)):
        draws = Draws(number, tf.constant([1.0]), tf.constant([sign]))
        found = augment.rand_augment.apply(tf.fill([16, 16, 3], tf.constant(255, tf.uint8)), draws)
        assert found[:, outside].numpy().tolist() == [[51, 102, 204]] * 16
        assert found[:, -1 - outside].numpy().min() == 255
