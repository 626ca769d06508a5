"""The baseline that looks at colors alone."""

import numpy as np
import pytest
from PIL import Image

from tests.support.errors import refused
from tools.benchmark.color_histograms import BINS, fit, histogram, histograms, main
from vision.input_pipeline import read_image_folder

COLORS = {"blue": (10, 20, 240), "red": (240, 20, 10)}


def test_a_histogram_counts_shares_of_colors():
    image = np.zeros((2, 4, 3), np.uint8)
    image[0, :, 0] = 255  # a half of red
    image[1, 0] = (31, 32, 64)  # just below and just in the second bin, and in the third
    found = histogram(image).reshape(BINS, BINS, BINS)
    assert found.sum() == 1.0
    assert found[7, 0, 0] == 0.5
    assert found[0, 1, 2] == 0.125
    assert found[0, 0, 0] == 0.375
    # Neither the order of the pixels nor the size of the image counts.
    larger = np.repeat(image[::-1], 3, axis=1)
    np.testing.assert_array_equal(histogram(larger), found.reshape(-1))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photographs of two classes that their color tells; one split has them exchanged."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count, exchanged in (("train", 6, False), ("val", 3, False), ("odd", 2, True)):
        for name, other in zip(COLORS, reversed(COLORS), strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                color = np.array(COLORS[other if exchanged else name])
                pixels = np.clip(color + rng.integers(-9, 10, (8, 8, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    (root / "val" / "red" / "broken.png").write_bytes(b"no image")
    return root


def test_what_cannot_be_read_is_dropped_with_its_label(data, capsys):
    folder = read_image_folder(data / "val")
    rows, labels = histograms(folder)
    assert rows.shape == (6, BINS**3)
    assert labels.tolist() == [0] * 3 + [1] * 3
    assert "dropped" in capsys.readouterr().err
    is_blue = rows.reshape(-1, BINS, BINS, BINS)[:, 0, :, 7].sum(1)
    np.testing.assert_array_equal(is_blue > 0.5, labels == 0)


def test_the_penalty_is_chosen_by_cross_validation(data):
    search = fit(*histograms(read_image_folder(data / "train")))
    assert search.best_score_ == 1.0
    assert search.n_splits_ == 5
    assert len(search.cv_results_["params"]) == 5


def test_accuracies_are_those_of_each_set(data, capsys):
    assert main([f"--data_url={data}", "--val_dir=val,odd"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("12 images, 2 classes, C = ")
    assert lines == ["val: Top1-Acc 1.0000 of 6", "odd: Top1-Acc 0.0000 of 4"]


def test_bad_input_is_one_line(data, tmp_path):
    for arguments, message in (
        ([], "--data_url DIR"),
        ([f"--data_url={data}", "more"], "--data_url DIR"),
        ([f"--data_url={data}", "--val_dir=none"], "none"),
    ):
        with refused(message):
            main(arguments)
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(b"no image")
    with refused("readable images"):
        histograms(read_image_folder(tmp_path / "train"))


def test_the_others_keep_their_labels_where_the_first_cannot_be_read(tmp_path):
    for label, (name, color) in enumerate(COLORS.items()):
        (tmp_path / name).mkdir()
        for number in range(3):
            path = tmp_path / name / f"{number}.png"
            Image.new("RGB", (4, 4), color).save(path)
            if number == label == 0:
                path.write_bytes(b"no image")
    rows, labels = histograms(read_image_folder(tmp_path))
    assert labels.tolist() == [0, 0, 1, 1, 1]
    assert [int(row.argmax()) // BINS**2 for row in rows] == [0, 0, 7, 7, 7]  # how much red
