"""Tests names of classes, the seed of the order of images, and lists in messages."""

import inspect

import numpy as np
import pytest
from PIL import Image

from tests.support.errors import refused
from vision import input_pipeline, postprocess
from vision.classes import Classes, read_classes
from vision.config import PreprocessingConfig
from vision.data_plan import EpochPlan
from vision.input_pipeline import Batches, read_image_folder
from vision.model import VisionConformer
from vision.session import probabilities_of

WNIDS = ["n01440764", "n01443537"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Numbers and WordNet ids are names if nothing follows them.
        ("12\n7\n", Classes(["12", "7"])),
        ("0 12\n1 7\n", Classes(["12", "7"])),
        ("n01440764\nn01443537\n", Classes(WNIDS)),
        ("n01440764 tench\nn01443537 gold fish\n", Classes(["tench", "gold fish"], WNIDS)),
        # A word that is similar to a WordNet id is a part of the name.
        ("n0144076 a\nn014407644 b\n", Classes(["n0144076 a", "n014407644 b"])),
        ("a01440764 a\nm01443537 b\n", Classes(["a01440764 a", "m01443537 b"])),
        ("nightmare a\nnecessary b\n", Classes(["nightmare a", "necessary b"])),
    ],
)
def test_what_is_a_name_and_what_a_number(tmp_path, text, expected):
    path = tmp_path / "labels.txt"
    path.write_text(text)
    assert read_classes(path, 2) == expected


@pytest.mark.parametrize("text", ["a.JPEG 65\nb c.png\t3\n", "ILSVRC2012_val_1.jpg 0"])
def test_a_list_of_labels_of_images_is_no_file_of_names(tmp_path, text):
    (tmp_path / "val.txt").write_text(text)
    with refused("names of images with labels. Give the file to python -m vision.eval as --anno"):
        read_classes(tmp_path / "val.txt", 2)


def test_the_seed_and_the_epoch_choose_the_order_of_images():
    def order(seed, epoch):
        plan = EpochPlan(40, 1, seed, epoch, global_batch_size=8)
        return [int(x) for step in range(len(plan)) for x in plan.rows(step).indices]

    orders = [order(*x) for x in ((1, 0), (2, 0), (1, 1), (2, 1))]
    assert all(sorted(x) == list(range(40)) for x in orders)
    assert len({tuple(x) for x in orders}) == 4
    assert order(1, 0) == orders[0]


def test_scores_below_zero_are_no_probabilities_whatever_their_sum():
    scores = np.array([[1.5, -0.5, 0.0]])
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(probabilities_of(scores), expected)


@pytest.mark.parametrize(("prefetch", "threads", "ahead"), [(0, 2, 12), (5, 2, 5), (2, 4, 4)])
def test_images_are_read_as_far_ahead_as_asked_for(monkeypatch, prefetch, threads, ahead):
    seen = {}

    def in_threads(function, items, **options):
        seen.update(options)
        yield from map(function, items)

    monkeypatch.setattr(input_pipeline, "in_threads", in_threads)
    image = np.zeros((4, 4, 3), np.float32)
    monkeypatch.setattr(input_pipeline, "read_image", lambda *_: image)
    batches = Batches(["a"] * 7, PreprocessingConfig(), 3, threads, prefetch=prefetch)
    assert [indices for indices, _ in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    # The one that is waited for is one of them.
    assert seen == {"ahead": ahead - 1, "num_threads": threads}


@pytest.mark.parametrize(("count", "more"), [(5, False), (6, True)])
def test_five_of_many_are_named(tmp_path, count, more):
    for number in range(count):
        (tmp_path / "set" / f"folder{number}").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "set" / f"folder{number}" / "a.png")
    with refused("Received: folder0, folder1, folder2, folder3, folder4") as caught:
        read_image_folder(tmp_path / "set", [("cat",), ("dog",)])
    assert ("folder4, and more" in str(caught.value)) == more


@pytest.mark.parametrize(("count", "more"), [(5, False), (6, True)])
def test_five_of_the_images_without_a_result_are_named(tmp_path, capsys, count, more):
    (tmp_path / "a_0.txt").write_text("1 2\n")
    labels = {"a": 1} | {f"image{number}": 0 for number in range(count)}
    postprocess.score(tmp_path, labels)
    told = capsys.readouterr().err
    assert f"{count} of {count + 1} images" in told
    assert told.rstrip().endswith("image4 ..." if more else "image4")


def test_a_model_gives_all_its_arguments_back():
    given = {
        "patch_size": 32,
        "channel_ratio": 2,
        "hidden_dim": 48,
        "num_heads": 3,
        "num_layers": 6,
        "feedforward_multiplier": 2,
        "num_classes": 7,
        "dropout_rate": 0.1,
        "attention_dropout_rate": 0.2,
        "drop_path_rate": 0.3,
        "fusion_drop_path": True,
        "zero_init_last_batch_norm": True,
        "approximate_gelu": True,
        "use_pytorch_maxpool": False,
        "pad_to_patch": True,
    }
    parameters = inspect.signature(VisionConformer).parameters
    assert set(given) == set(parameters) - {"kwargs"}
    assert all(value != parameters[name].default for name, value in given.items())
    again = VisionConformer.from_config(VisionConformer(**given).get_config())
    assert {name: getattr(again, name) for name in given} == given
