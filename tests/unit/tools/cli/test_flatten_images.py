"""The program that makes a flat folder with a list of labels."""

from pathlib import Path

import pytest
from PIL import Image

from tests.support.errors import refused
from tools.cli.flatten_images import main
from vision.annotations import read_annotations
from vision.input_pipeline import read_image_folder


@pytest.fixture
def make(tmp_path):
    """Writes an ImageFolder of these images and flattens it; returns the folder."""

    def of(*names, flags=()):
        for shade, name in enumerate(names):
            path = tmp_path / "from" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), shade).save(path)
        places = [f"--data_dir={tmp_path / 'from'}", f"--output_dir={tmp_path / 'to'}"]
        assert main([*places, *flags]) == 0
        return tmp_path / "to"

    return of


def test_each_image_keeps_its_content_and_label(make, tmp_path):
    folder = make("b/1.png", "a/2.png", "a/deep/3.JPEG")
    labels = read_annotations(folder / "val_label.txt")
    assert labels == {"1": 1, "2": 0, "3": 0}
    found = read_image_folder(tmp_path / "from")
    for path, label in zip(map(Path, found.paths), found.labels, strict=True):
        assert (folder / "val" / path.name).read_bytes() == path.read_bytes()
        assert labels[path.stem] == label


def test_names_that_occur_twice(make):
    folder = make("a/1.png", "b/1.jpg")
    assert {x.name for x in (folder / "val").iterdir()} == {"a_1.png", "b_1.jpg"}
    assert read_annotations(folder / "val_label.txt") == {"a_1": 0, "b_1": 1}


def test_names_of_the_classes_number_them(make, tmp_path):
    (tmp_path / "names.txt").write_text("b\na\n")
    folder = make("a/1.png", "b/2.png", flags=[f"--imagenet_label_file={tmp_path / 'names.txt'}"])
    assert read_annotations(folder / "val_label.txt") == {"1": 1, "2": 0}


def test_what_cannot_be_made(make, tmp_path):
    with refused("images of a class with different names"):
        make("a/1.png", "a/1.jpg", "b/1.png")
    assert not (tmp_path / "to").exists()
    with refused("--data_dir FOLDER --output_dir DIR"):
        main(["--data_dir=x"])
