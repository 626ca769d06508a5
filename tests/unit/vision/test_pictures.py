"""Tests the figures of the programs: confusion matrix, variants of images, activation maps."""

import csv

import numpy as np
import pytest

from tests.support.figures import recorded
from vision.activation_map import draw
from vision.scoring import write_analysis, write_report
from vision.show_augmentations import draw_sheet

# Class 2 has no images; only images of class 0 are predicted as class 0.
CONFUSION = np.array([[3, 1, 0, 0], [0, 2, 6, 0], [0, 0, 0, 0], [0, 0, 1, 4]])
NAMES = ["cat", "", "cow", "dog"]


@pytest.fixture
def figures(monkeypatch):
    return recorded(monkeypatch)


def test_confusion_is_drawn_as_shares_of_each_class(figures, tmp_path):
    write_analysis(tmp_path, CONFUSION, NAMES)
    axes = figures[0].axes[0]
    expected = [[0.75, 0.25, 0, 0], [0, 0.25, 0.75, 0], [0, 0, 0, 0], [0, 0, 0.2, 0.8]]
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert axes.images[0].get_clim() == (0, 1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "class")
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["cat", "1", "cow", "dog"]
    for text in axes.texts:
        column, row = text.get_position()
        assert text.get_text() == str(CONFUSION[row, column])
        assert text.get_color() == ("white" if expected[row][column] > 0.5 else "black")
    assert len(axes.texts) == CONFUSION.size


@pytest.mark.parametrize(
    ("num_classes", "named", "counted"), [(26, True, False), (51, False, False)]
)
def test_a_large_matrix_has_no_room_for_counts_and_names(
    figures, tmp_path, num_classes, named, counted
):
    names = [f"class {number}" for number in range(num_classes)]
    write_analysis(tmp_path, np.eye(num_classes, dtype=int), names)
    axes = figures[0].axes[0]
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert (shown == names) == named
    assert bool(axes.texts) == counted


def test_tables_of_classes(tmp_path):
    write_analysis(tmp_path, CONFUSION, NAMES)
    with (tmp_path / "per_class_accuracy.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["class", "name", "images", "correct", "accuracy"],
        ["0", "cat", "4", "3", "0.750000"],
        ["1", "1", "8", "2", "0.250000"],
        ["2", "cow", "0", "0", ""],
        ["3", "dog", "5", "4", "0.800000"],
    ]
    with (tmp_path / "confusion_matrix.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["label / predicted", "cat", "1", "cow", "dog"]
    assert rows[1] == ["1", "0", "2", "6", "0"]


def test_answers_have_label_and_prediction_in_their_columns(tmp_path):
    rows = [("a.png", np.int64(0), np.int64(3)), ("b.png", np.int64(1), np.int64(2))]
    write_report(tmp_path / "report.json", {"top1": 0.0}, rows, NAMES)
    assert (tmp_path / "report.tsv").read_text().splitlines() == [
        "PATH\tLABEL\tPREDICTED\tLABEL_NAME\tPREDICTED_NAME",
        "a.png\t0\t3\tcat\tdog",
        "b.png\t1\t2\t\tcow",
    ]


def test_every_variant_has_its_title(figures, rng):
    images = list(rng.integers(0, 256, (5, 4, 4, 3)).astype("uint8"))
    draw_sheet(images, [f"title {number}" for number in range(5)])
    panels = figures[0].axes
    assert len(panels) == 6  # three columns, two rows
    assert [panel.get_title() for panel in panels] == [*(f"title {x}" for x in range(5)), ""]
    for panel, image in zip(panels, images, strict=False):
        np.testing.assert_array_equal(panel.images[0].get_array(), image)
    assert not panels[5].images


def test_a_map_is_scaled_to_its_own_range_and_drawn_over_the_image(figures, rng):
    image = rng.integers(0, 256, (12, 8, 3)).astype("uint8")
    low, flat = np.array([[-3.0, 1.0], [-1.0, -3.0]]), np.full((2, 2), 7.0)
    draw(image, {"one": 100 * low, "flat": flat}, "a title")
    (figure,) = figures
    assert figure.get_suptitle() == "a title"
    assert [panel.get_title() for panel in figure.axes] == ["image", "one", "flat"]
    for panel in figure.axes:
        np.testing.assert_array_equal(panel.images[0].get_array(), image)
    over = figure.axes[1].images[1]
    found = np.asarray(over.get_array())
    assert found.shape == (12, 8) and over.get_clim() == (0, 1)
    assert 0 < over.get_alpha() < 1
    corners = found[[0, 0, -1, -1], [0, -1, 0, -1]]
    np.testing.assert_allclose(corners, [0, 1, 0.5, 0], atol=0.3)  # bicubic: it overshoots
    np.testing.assert_allclose(figure.axes[2].images[1].get_array(), 0, atol=1e-6)
