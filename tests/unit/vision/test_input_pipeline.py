"""Lists of images, class numbers, and reading ahead."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.support.errors import refused
from tools import threads
from vision import input_pipeline
from vision.classes import Classes, classes_of, read_classes, read_labelled, top_classes
from vision.config import PreprocessingConfig
from vision.images import read_image
from vision.input_pipeline import Batches, find_images, read_image_folder


@pytest.fixture
def tree(tmp_path):
    """Three images in two classes, and things to ignore."""
    for name in ("cat/a.png", "cat/deeper/b.JPG", "dog/c.jpeg"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "red").save(path, "PNG")
    for name in ("cat/._a.png", "cat/notes.txt", ".git/x.png", "__MACOSX/cat/a.png", "top.png"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no image")
    return tmp_path / "tree"


def test_an_image_folder(tree):
    found = read_image_folder(tree)
    names = [path.removeprefix(f"{tree}/") for path in found.paths]
    assert names == ["cat/a.png", "cat/deeper/b.JPG", "dog/c.jpeg"]
    assert found.labels == [0, 0, 1]
    assert found.classes == {0: "cat", 1: "dog"}
    assert found.remarks == []


def test_a_flat_folder_without_what_is_below(tree):
    assert find_images(tree / "cat") == [str(tree / "cat" / "a.png")]
    assert find_images(tree / "cat" / "a.png") == [str(tree / "cat" / "a.png")]
    (tree / "cat" / "none").mkdir()
    with refused(f"in {tree / 'cat' / 'none'}"):
        find_images(tree / "cat" / "none")
    with refused(f"{tree / 'nothing'}: nothing"):
        find_images(tree / "nothing")


def test_names_of_the_model_number_the_folders(tree):
    classes = Classes(["dog", "bird", "cat"])
    found = read_labelled(tree, classes, 3)
    assert found.labels == [2, 2, 0]
    found = read_labelled(tree, Classes(["a dog", "a bird"], ["dog", "bird"]), 2)
    assert found.labels == [0]
    assert found.remarks == [(str(tree / "cat"), "no class of the model")]
    with refused("imagenet_label_file"):
        read_labelled(tree, Classes(), 1000)
    assert read_labelled(tree, Classes(), 2).labels == [0, 0, 1]


def test_shared_trees(shared_data):
    trees = shared_data / "bad_inputs" / "image_trees"
    for name, message in (("flat", "class folders"), ("no_images", "images in the class folders")):
        with refused(message):
            read_image_folder(trees / name / "train")
    found = read_image_folder(trees / "empty_class" / "train")
    assert found.labels == [0]
    assert found.remarks == [(str(trees / "empty_class" / "train" / "paper"), "no images")]
    assert read_image_folder(trees / "junk_files" / "train").labels == [0, 1]
    assert read_image_folder(trees / "upper_case_suffix" / "train").labels == [0, 1]
    training = read_image_folder(trees / "classes_differ" / "train")
    classes = Classes(list(training.classes.values()))
    found = read_labelled(trees / "classes_differ" / "val", classes, 2)
    assert found.labels == [1]
    assert [folder.rsplit("/", 1)[1] for folder, _ in found.remarks] == ["wood"]
    found = read_image_folder(trees / "one_corrupt" / "train")
    batches = Batches(found.paths, PreprocessingConfig(), 4)
    assert [len(indices) for indices, _ in batches] == [4, 1]
    assert len(batches.reasons) == 1


@pytest.mark.parametrize(("batch_size", "threads", "prefetch"), [(1, 1, 0), (3, 4, 1), (8, 2, 20)])
def test_batches_keep_the_order_and_leave_out_what_is_broken(
    batch_size, threads, prefetch, rng, tmp_path
):
    config = PreprocessingConfig(image_size=16)
    paths = []
    for number in range(11):
        path = tmp_path / f"{number}.png"
        if number in (0, 4, 10):
            path.write_text("broken")
        else:
            Image.fromarray(rng.integers(0, 256, (20, 20, 3)).astype("uint8")).save(path)
        paths.append(str(path))
    batches = Batches(paths, config, batch_size, threads, prefetch=prefetch)
    found = {}
    sizes = []
    for indices, images in batches:
        sizes.append(len(indices))
        found |= dict(zip(indices, images, strict=True))
    assert set(sizes[:-1]) <= {batch_size}
    assert list(found) == [1, 2, 3, 5, 6, 7, 8, 9]
    assert batches.reasons.keys() == {0, 4, 10}
    assert batches.waiting_seconds > 0
    for index, image in found.items():
        np.testing.assert_array_equal(image, read_image(paths[index], config))


def test_leaving_early_leaves_no_readers(monkeypatch):
    """What is read at that moment is read to its end, and nothing that was to come after it."""
    config, started, go_on = PreprocessingConfig(image_size=16), [], threading.Event()

    def read(path, preprocessing):
        started.append(path)
        if len(started) > 2:
            assert go_on.wait(60)
        return np.zeros((16, 16, 3), "float32")

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, **options):
            super().shutdown(wait=False, **options)
            go_on.set()
            super().shutdown(wait=wait)

    monkeypatch.setattr(input_pipeline, "read_image", read)
    monkeypatch.setattr(threads, "ThreadPoolExecutor", Pool)
    batches = iter(Batches(["x"] * 50, config, 2, num_threads=1))
    next(batches)
    batches.close()
    assert not [x for x in threading.enumerate() if x.name.startswith("decode")]
    assert len(started) <= 3


def test_waiting_is_the_time_until_an_image_is_there(monkeypatch):
    """By a clock that goes on by itself: a second for each look at it, three for each image."""
    now = [0.0]

    def look():
        now[0] += 1.0
        return now[0]

    class Read:
        def result(self):
            now[0] += 3.0
            return np.zeros((16, 16, 3), "float32")

    class Pool:
        def __init__(self, *_, **__):
            pass

        submit = lambda self, *_: Read()  # noqa: E731
        shutdown = lambda self, **_: None  # noqa: E731

    monkeypatch.setattr(threads, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(input_pipeline.time, "perf_counter", look)
    batches = Batches(["x"] * 5, PreprocessingConfig(image_size=16), 2)
    for _ in batches:
        now[0] += 100.0  # the taker's own time
    assert batches.waiting_seconds == 5 * (3.0 + 1.0)


def test_the_first_of_equal_scores_is_the_best():
    scores = np.ones((1, 300))
    scores[0, 7] = 2
    assert top_classes(scores, 4).tolist() == [[7, 0, 1, 2]]


def write(path, text):
    path.write_text(text)
    return path


def test_label_files(tmp_path, shared_data):
    numbered = write(tmp_path / "a", "0 n01440764 tench, Tinca tinca\n1 n01443537 goldfish\n")
    expected = Classes(["tench, Tinca tinca", "goldfish"], ["n01440764", "n01443537"])
    assert read_classes(numbered, 2) == expected
    assert read_classes(write(tmp_path / "b", "tench\n\ngreat white shark\r\n"), 2) == Classes(
        ["tench", "great white shark"]
    )
    assert expected.aliases[1] == ("goldfish", "n01443537")
    imagenet = read_classes(shared_data / "imagenet_classes.txt", 1000)
    assert imagenet.name(0).startswith("tench")
    assert imagenet.folders[999].startswith("n")


@pytest.mark.parametrize("text", ["", "a\nb\nc\n", "1 a\n0 b\n", "n01440764 a\nb\n", "\udcff"])
def test_bad_label_files(text, tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with refused(str(path)):
        read_classes(path, 2)


def test_a_label_file_wins_over_the_model(tmp_path):
    pipeline = {"num_classes": 2, "class_names": ["x", "y"], "class_folders": None}
    assert classes_of(pipeline, None) == Classes(["x", "y"])
    assert classes_of(pipeline, write(tmp_path / "a", "u\nv\n")).names == ["u", "v"]
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    with refused("none"):
        classes_of(pipeline, tmp_path / "none")
