"""Tests lists of images, class numbers, and reading in background threads."""

import os
import shutil
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.errors import refused
from tools import threads
from vision import input_pipeline
from vision.classes import (
    Classes,
    classes_of,
    named_by,
    read_classes,
    read_labelled,
    read_own_classes,
    renamed,
    top_classes,
)
from vision.config import PreprocessingConfig
from vision.images import read_image
from vision.input_pipeline import SUFFIXES, Batches, find_images, read_image_folder


@pytest.fixture
def tree(tmp_path):
    """Writes three images in two classes, and files that must be ignored."""
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
    assert find_images(tree / "cat" / "a.png") == ([str(tree / "cat" / "a.png")], [])
    for suffix in SUFFIXES:
        (tree / "cat" / f"b{suffix.upper()}").touch()
    found = find_images(tree / "cat")
    names = ["a.png", *(f"b{suffix.upper()}" for suffix in SUFFIXES)]
    assert found.paths == sorted(str(tree / "cat" / name) for name in names)
    assert [path for path, _ in found.left_out] == [
        str(tree / "cat" / name) for name in ("deeper", "notes.txt")
    ]
    (tree / "cat" / "none").mkdir()
    with refused(f"in {tree / 'cat' / 'none'}"):
        find_images(tree / "cat" / "none")
    with refused(f"{tree / 'nothing'}: no such file or folder"):
        find_images(tree / "nothing")


def test_what_an_image_folder_leaves_out_is_told(tree):
    """Hidden files and folders are ignored; links are followed, except circular ones."""
    cat, elsewhere = tree / "cat", tree.parent / "elsewhere"
    shutil.copytree(cat / "deeper", cat / ".ipynb_checkpoints")
    (cat / "deeper" / ".b.heic").touch()
    elsewhere.mkdir()
    shutil.copy(cat / "a.png", elsewhere / "d.jfif")
    (elsewhere / "up").symlink_to(cat)
    (cat / "deeper" / "itself").symlink_to(cat / "deeper")
    (cat / "more").symlink_to(elsewhere)
    (cat / "again").symlink_to(elsewhere)
    (cat / "linked.png").symlink_to(elsewhere / "d.jfif")
    for name in ("e.heic", "f.avif", "no_suffix"):
        (cat / name).touch()
    for place in (cat / "dangling.jpg", tree / "bird", tree / ".#hidden"):
        place.symlink_to("/nowhere/x.jpg")
    os.mkfifo(cat / "pipe.png")
    found = read_image_folder(tree)
    assert [path.removeprefix(f"{tree}/") for path in found.paths] == [
        "cat/a.png",
        "cat/again/d.jfif",
        "cat/deeper/b.JPG",
        "cat/linked.png",
        "cat/more/d.jfif",
        "dog/c.jpeg",
    ]
    assert found.labels == [0] * 5 + [1]
    assert {path.removeprefix(f"{tree}/"): reason for path, reason in found.left_out} == {
        "bird": "a broken link",
        "top.png": "not in a class folder",
        "cat/again/up": "a link to a folder above it",
        "cat/dangling.jpg": "a broken link",
        "cat/deeper/itself": "a link to a folder above it",
        "cat/e.heic": "not the suffix of an image",
        "cat/f.avif": "not the suffix of an image",
        "cat/more/up": "a link to a folder above it",
        "cat/no_suffix": "not the suffix of an image",
        "cat/notes.txt": "not the suffix of an image",
        "cat/pipe.png": "not a file",
    }
    assert found.sample(2, 0).left_out == found.left_out


def test_a_link_to_a_folder_above_a_class_brings_no_other_class_into_it(tree):
    elsewhere = tree.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(tree / "cat" / "a.png", elsewhere / "d.png")
    for place in (tree / "dog" / "up", tree / "all", elsewhere / "back"):
        place.symlink_to(tree)
    (tree / "dog" / "more").symlink_to(elsewhere)
    (tree / "eel").symlink_to(elsewhere)
    (tree.parent / "link").symlink_to(tree)
    for place in (tree, tree.parent / "link"):
        found = read_image_folder(place)
        names = [path.removeprefix(f"{place}/") for path in found.paths]
        assert names == "cat/a.png cat/deeper/b.JPG dog/c.jpeg dog/more/d.png eel/d.png".split()
        assert found.classes == {0: "cat", 1: "dog", 2: "eel"}
        assert [
            path.removeprefix(f"{place}/")
            for path, reason in found.left_out
            if reason == "a link to a folder above it"
        ] == ["all", "dog/more/back", "dog/up", "eel/back"]


def test_a_folder_that_cannot_be_read_is_told(tree, monkeypatch):
    """The error is simulated, because root can read every folder."""
    look = Path.iterdir

    def refuse(path):
        if path.name == "deeper":
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = read_image_folder(tree)
    assert found.labels == [0, 1]
    assert (str(tree / "cat" / "deeper"), "Permission denied") in found.left_out


def test_a_folder_without_an_image_names_what_is_there(tree):
    for path in (
        tree / "cat" / "a.png",
        tree / "cat" / "deeper" / "b.JPG",
        tree / "dog" / "c.jpeg",
    ):
        path.rename(path.with_suffix(".heic"))
    with refused("a.heic (not the suffix of an image)"):
        read_image_folder(tree)
    with refused("c.heic (not the suffix of an image)"):
        find_images(tree / "dog")


def test_the_reported_tree(shared_data, tmp_path):
    archive = shared_data / "reported" / "vision" / "imagefolder_hidden_symlink.tgz"
    if not archive.is_file():
        pytest.skip(f"without {archive}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="fully_trusted")
    found = read_image_folder(tmp_path / "folder")
    names = [path.removeprefix(f"{tmp_path}/folder/") for path in found.paths]
    assert names[0] == "glass/glass10.jpg" and len(names) == len({*names}) > 2
    assert all(name.startswith(("paper/paper", "paper/more/")) for name in names[1:])
    assert [Path(path).name for path, _ in found.left_out] == ["dangling.jpg", "x.heic"]


def test_names_of_the_model_number_the_folders(tree):
    classes = Classes(["dog", "bird", "cat"])
    found = read_labelled(tree, classes, 3)
    assert found.labels == [2, 2, 0]
    found = read_labelled(tree, Classes(["a dog", "a bird"], ["dog", "bird"]), 2)
    assert found.labels == [0]
    assert found.remarks == [(str(tree / "cat"), "not a class of the model")]
    with refused("imagenet_label_file"):
        read_labelled(tree, Classes(), 1000)
    assert read_labelled(tree, Classes(), 2).labels == [0, 0, 1]


def test_a_newline_in_the_name_of_a_folder_is_escaped(tmp_path):
    folder = tmp_path / "a\nb"
    with refused(match=r"a\\nb: No such file"):
        read_image_folder(folder)
    folder.mkdir()
    with refused(match=r"class folders in .*a\\nb"):
        read_image_folder(folder)


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
    """Images that are being read are completed; no further ones are started."""
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
    """Uses a simulated clock: 1 s for each call, 3 s for each image."""
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
        now[0] += 100.0  # time of the consumer
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
    assert {"goldfish", "n01443537", "n01443537 goldfish"} <= {*expected.aliases[1]}
    imagenet = read_classes(shared_data / "imagenet_classes.txt", 1000)
    assert imagenet.name(0).startswith("tench")
    assert imagenet.folders[999].startswith("n")


FORMS = {
    "numbers": "0 tench, Tinca tinca\n1 a cock\n2 7up\n",
    "from one": "1 tench, Tinca tinca\n2 a cock\n3 7up\n",
    "colons": "0: tench, Tinca tinca\n1: a cock\n2: 7up",
    "commas": "0,tench, Tinca tinca\n1,a cock\n2,7up\n",
    "table": 'index,name\n0,"tench, Tinca tinca"\n1,a cock\n2,"7up"\n',
    "quoted table": '"0","tench, Tinca tinca"\n"1","a cock"\n"2","7up"\n',
    "tabs": "0\ttench, Tinca tinca\n1\ta cock\n2\t7up\n",
    "points": "1. tench, Tinca tinca\n2. a cock\n3. 7up\n",
    "dashes": "0 - tench, Tinca tinca\n1 - a cock\n2 - 7up\n",
    "equals": "0=tench, Tinca tinca\n1=a cock\n2 = 7up\n",
    "number behind": "tench, Tinca tinca,0\na cock,1\n7up,2\n",
    "table with the number behind": 'name;class\n"tench, Tinca tinca";1\n"a cock";2\n7up;3\n',
    "names": "tench, Tinca tinca\na cock\n7up\n",
    "Python": "{0: 'tench, Tinca tinca',\n 1: \"a cock\",\n 2: '7up',}\n",
    "Python from one": "{1: 'tench, Tinca tinca', 2: 'a cock', 3: '7up'}",
    "Python with quotes inside": "{0: 'tench, Tinca tinca',\n 1: 'a cock',\n 2: '7up'}",
    "JSON": '{"0": "tench, Tinca tinca", "2": "7up", "1": "a cock"}',
    "JSON by name": '{"tench, Tinca tinca": 0, "7up": 2, "a cock": 1}',
    "JSON list": '["tench, Tinca tinca", "a cock", "7up"]',
    "JSON pairs": '[[0, "tench, Tinca tinca"], [1, "a cock"], [2, "7up"]]',
    "Python pairs by name": "[('tench, Tinca tinca', 0), ('a cock', 1), ('7up', 2)]",
    "arrows": "0 -> tench, Tinca tinca\n1 -> a cock\n2 -> 7up\n",
    "double arrows": "0 => tench, Tinca tinca\n1=>a cock\n2 => 7up\n",
    "bars": "0|tench, Tinca tinca\n1 | a cock\n2|7up\n",
    "brackets": "(0) tench, Tinca tinca\n(1) a cock\n(2) 7up\n",
    "number behind a space": "tench, Tinca tinca 0\na cock 1\n7up 2\n",
    "YAML list": "- 'tench, Tinca tinca'\n- a cock\n- \"7up\"\n",
    "YAML list with a head": "names:\n  - tench, Tinca tinca\n  - a cock\n  - 7up\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_label_files_as_people_have_them(form, tmp_path):
    names = ["tench, Tinca tinca", "a cock", "7up"]
    text = FORMS[form]
    if form == "Python with quotes inside":
        text, names[1] = text.replace("a cock", "a devil's cock"), "a devil's cock"
    assert read_classes(write(tmp_path / "a", text), 3) == Classes(names)


def test_a_number_at_the_end_of_a_name_is_no_index(tmp_path):
    names = ["Boeing, 737", "Boeing, 747", "thing 0"]
    assert read_classes(write(tmp_path / "a", "\n".join(names)), 3) == Classes(names)
    names = ["Boeing, 737", "Boeing, 747"]
    assert read_classes(write(tmp_path / "a", "\n".join(names)), 2) == Classes(names)
    for names in (["room 0", "room 1"], ["0", "1"], ["mark 2", "type 5"], ["cat", "dog 1"]):
        assert read_classes(write(tmp_path / "a", "\n".join(names)), 2) == Classes(names)
    with refused("class 2 next in"):
        read_classes(write(tmp_path / "a", "tench,1\na cock,0\n"), 2)


@pytest.mark.parametrize(
    "text",
    [
        "0 n01440764 tench\n1 n01514668 a cock\n",
        "n01440764 tench\nn01514668 a cock\n",
        "n01440764,tench\nn01514668,a cock\n",
        "0: n01440764: tench\n1: n01514668: a cock\n",
        "n01440764 1 tench\nn01514668 2 a cock\n",
        "n01440764,0,tench\nn01514668,1,a cock\n",
        "n01440764 tench 0\nn01514668 a cock 1\n",
        '{"0": ["n01440764", "tench"], "1": ["n01514668", "a cock"]}',
    ],
)
def test_label_files_with_numbers_of_wordnet(text, tmp_path):
    expected = Classes(["tench", "a cock"], ["n01440764", "n01514668"])
    assert read_classes(write(tmp_path / "a", text), 2) == expected


@pytest.mark.parametrize("name", ["labels_gist_dict.txt", "labels_index_comma.csv"])
def test_reported_label_files(shared_data, name):
    path = shared_data / "reported" / "vision" / name
    if not path.is_file():
        pytest.skip(f"without {path}")
    expected = read_classes(shared_data / "imagenet_classes.txt", 1000).names
    assert read_classes(path, 1000).names == expected


@pytest.mark.parametrize(
    "text",
    [
        "{'a': 'b', 'c': 'd'}",
        "{0: 'a', 2: 'b'}",
        "{2: 'a', 3: 'b'}",
        "[1, 2]",
        "{0: 1.5, 1: 2.5}",
        "{nothing\nof this}",
        "0: a\n2: b\n",
        "2 a\n3 b\n",
        "{0: {}, 1: 'a'}",
        "[" * 10000,
    ],
)
def test_label_files_in_disorder_are_refused(text, tmp_path):
    with refused(str(tmp_path / "a")):
        read_classes(write(tmp_path / "a", text), 2)


@pytest.mark.parametrize("text", ["", "a\nb\nc\n", "1 a\n0 b\n", "n01440764 a\nb\n", "\udcff"])
def test_bad_label_files(text, tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with refused(str(path)):
        read_classes(path, 2)


@pytest.mark.parametrize("text", ["", "1 a\n2 b\n", "0 a\n0 b\n", "a\nb\n"])
def test_a_damaged_list_of_own_classes_is_refused(text, tmp_path):
    with refused(str(tmp_path / "classes")):
        read_own_classes(write(tmp_path / "classes", text))


def test_a_label_file_in_another_order_than_the_model_is_refused(tmp_path):
    """Other names are accepted, and data can have the folder names of both."""
    known = Classes(["cat", "crane", "crane"], ["n1", "n2", "n3"])
    labels = tmp_path / "labels"
    for text in ("crane\ncat\ncrane\n", "a\nb\nn2\n", "a\ncat\nb\n"):
        with refused(str(labels)):
            named_by(known, write(labels, text), 3)
    named = named_by(known, write(labels, "Katze\nKranich\nKran\n"), 3)
    assert named == Classes(["Katze", "Kranich", "Kran"], ["n1", "n2", "n3"])
    assert named_by(known, write(labels, "cat\ncrane\nKran\n"), 3).names[2] == "Kran"
    of_run = named_by(Classes(["n1", "n2"]), write(labels, "Katze\nKranich\n"), 2)
    assert of_run == Classes(["Katze", "Kranich"], ["n1", "n2"])
    assert {"n2", "Kranich"} <= {*of_run.aliases[1]}
    assert named_by(known, None, 3) is known


def test_classes_are_the_same_by_any_of_their_names():
    known = Classes(["a cat", "a dog"], ["cat", "dog"])
    for folders in (["cat", "a dog"], ["cat a cat", "dog"]):
        assert renamed(known, folders) == ""
    assert renamed(known, ["dog", "cat"]) == "0: dog instead of a cat, 1: cat instead of a dog"
    assert renamed(known, ["cat", "hound"]) == "1: hound instead of a dog"
    assert renamed(known, ["cat"]) == "1 class instead of 2"
    many = [f"class {n}" for n in range(9)]
    assert renamed(Classes(many), many[::-1]).endswith("5: class 3 instead of class 5, and more")


def test_a_label_file_wins_over_the_model(tmp_path):
    pipeline = {"num_classes": 2, "class_names": ["x", "y"], "class_folders": None}
    assert classes_of(pipeline, None) == Classes(["x", "y"])
    assert classes_of(pipeline, write(tmp_path / "a", "u\nv\n")).names == ["u", "v"]
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
    with refused("none"):
        classes_of(pipeline, tmp_path / "none")
