"""The program that draws images: layout, determinism, that classes differ, refusals."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from tests.support.arguments import joined
from tests.support.errors import refused
from tools.cli.synthesize_images import main
from tools.files import to_json
from vision.synthesis import SHAPES, cached_images, draw

FLAGS = ["--train_images=3", "--val_images=2", "--image_size=32"]


def make(folder, *flags):
    assert main(joined([f"--output_dir={folder}", *FLAGS], flags)) == 0
    return {str(x.relative_to(folder)): x.read_bytes() for x in folder.rglob("*") if x.is_file()}


@pytest.fixture
def images(tmp_path):
    return make(tmp_path / "made")


def test_layout_is_that_of_an_image_folder(images, tmp_path):
    counts = {split: sum(name.startswith(split) for name in images) for split in ("train", "val")}
    assert counts == {"train": 3 * len(SHAPES), "val": 2 * len(SHAPES)}
    for path in (tmp_path / "made").rglob("*.png"):
        with Image.open(path) as image:
            assert (image.size, image.mode) == ((32, 32), "RGB")
    assert len(set(images.values())) == len(images), "no image comes twice"


def test_the_same_arguments_give_the_same_files_and_more_begin_alike(images, tmp_path):
    assert make(tmp_path / "again") == images
    assert make(tmp_path / "made") == images, "nothing is drawn anew"
    longer = make(tmp_path / "longer", "--train_images=4")
    assert all(longer[name] == value for name, value in images.items() if name.endswith("png"))
    other = make(tmp_path / "other", "--seed=1")
    assert other["train/cross/00000.png"] != images["train/cross/00000.png"]


def test_shapes_differ_by_the_part_of_their_circle_that_they_fill():
    """Bright pixels in the square around the shape: what a classifier has to see."""
    shares = {}
    for shape in SHAPES:
        found = []
        for seed in range(20):
            image = np.asarray(draw(shape, 64, np.random.default_rng(seed))).astype(int)
            bright = image.mean(axis=-1) > 125
            rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
            found.append(bright.sum() / (np.ptp(rows) + 1) / (np.ptp(columns) + 1))
        shares[shape] = np.mean(found)
    assert abs(shares["circle"] - np.pi / 4) < 0.05
    assert shares["triangle"] < shares["circle"] and shares["cross"] < shares["circle"]
    assert shares["square"] > shares["triangle"] + 0.1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train_images=0"], "--train_images of at least 1"),
        (["--image_size=8"], "--image_size of at least 16"),
        (["stray"], "stray"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, flags, message):
    with refused(match=message):
        main([f"--output_dir={tmp_path / 'x'}", *flags])
    assert not (tmp_path / "x").exists()


def test_what_is_there_is_left_alone(images, tmp_path):
    with refused(match="other arguments"):
        main([f"--output_dir={tmp_path / 'made'}", *FLAGS, "--seed=5"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with refused(match="other files"):
        main([f"--output_dir={tmp_path / 'mine'}", *FLAGS])
    with refused(match="--output_dir"):
        main(FLAGS)


def test_shapes_lie_within_the_image_at_every_place():
    size, centers, noise = 64, [], []
    for seed in range(40):
        image = np.asarray(draw("circle", size, np.random.default_rng(seed))).astype(float)
        bright = image.mean(axis=-1) > 125
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        sides = [np.ptp(x) + 1 for x in (rows, columns)]
        assert abs(sides[0] - sides[1]) <= 2, "a whole circle is as wide as high"
        assert 0.4 * size - 2 <= min(sides) <= max(sides) <= 0.8 * size + 2
        centers.append((rows.mean(), columns.mean()))
        row, column = (round(x) for x in centers[-1])
        inside = image[row - 4 : row + 4, column - 4 : column + 4].reshape(-1, 3)
        noise.append(np.median(inside.std(axis=0)))  # one color but for the noise
    assert np.std(centers, axis=0).min() > 3
    assert np.median(noise) == pytest.approx(8, abs=1.5)


def test_images_of_one_number_have_nothing_in_common(images, tmp_path):
    """Neither those of two classes nor those of two splits: their backgrounds tell."""
    corners = {}
    for path in (tmp_path / "made").rglob("*/00001.png"):
        pixels = np.asarray(Image.open(path)).astype(int)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        corners[path.relative_to(tmp_path)] = tuple(np.median(border, axis=0) // 8)
    assert len(corners) == 2 * len(SHAPES)
    assert len(set(corners.values())) == len(corners)


def test_the_images_of_the_cache_are_drawn_once(tmp_path, monkeypatch):
    drawn = []

    def write(folder, arguments):
        drawn.append(arguments)
        time.sleep(0.2)  # the others come meanwhile
        (folder / "images.json").write_text(to_json(asdict(arguments)))

    monkeypatch.setattr("vision.synthesis.write_images", write)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(cached_images, [tmp_path / "cache"] * 4))
    assert len(drawn) == 1 and len(set(folders)) == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folders[0].name]
