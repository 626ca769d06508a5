"""The program that draws the records of training: curves, the picture, refusals."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.support.errors import refused
from tests.support.figures import lines_of, recorded
from tools.cli.plot_training import curves, main, read_records

RECORDS = [
    {"step": 10, "epoch": 1, "train/loss": 3.0, "perf/steps_per_second": 4.0},
    {"step": 20, "epoch": 1, "train/loss": None},
    {"step": 20, "epoch": 1, "eval/loss": 2.0, "eval/wer": 0.5, "eval_unaveraged/loss": 2.5},
    {"step": 30, "epoch": 2, "train/loss": 1.0},
]


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in RECORDS)
    (folder / "metrics.jsonl").write_text(lines + '{"step": 4')  # still being written
    return folder


def test_curves_are_found_by_the_part_behind_the_slash(run_folder):
    records = read_records(run_folder)
    assert records == read_records(run_folder / "metrics.jsonl") == RECORDS
    train, unaveraged, averaged = curves({"run": records}, "loss")
    assert train[:2] == ("train", [10, 20, 30])
    np.testing.assert_equal(train[2], [3.0, np.nan, 1.0])
    assert unaveraged == ("eval_unaveraged", [20], [2.5]) and averaged == ("eval", [20], [2.0])


def test_several_runs_are_told_apart(run_folder):
    records = read_records(run_folder)
    names = [name for name, _, _ in curves({"a": records, "b": records}, "wer")]
    assert names == ["a: eval", "b: eval"]


def test_the_picture_has_a_panel_for_each_metric(run_folder, tmp_path, capsys):
    sizes = {}
    for metrics in ("loss", "loss,wer"):
        picture = tmp_path / "curve.png"
        assert main([str(run_folder), f"--metrics={metrics}", f"--output={picture}"]) == 0
        image = Image.open(picture).convert("HSV")
        assert (np.asarray(image)[..., 1] > 100).any(), "curves are colored"
        sizes[metrics] = image.size
    assert sizes["loss,wer"] == (2 * sizes["loss"][0], sizes["loss"][1])
    assert "loss, train: from 1 to 3, last 1 at step 30" in capsys.readouterr().err


def test_a_loss_that_was_never_a_number_is_drawn_too(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": null}\n')
    assert main([str(tmp_path), f"--output={tmp_path / 'a.png'}"]) == 0
    assert "from nan to nan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, [], "a RUN"),
        (None, ["{run}"], "No such file"),
        ("", ["{run}"], "records in .*none"),
        ("no JSON\n", ["{run}"], "records of training"),
        ("[1]\n", ["{run}"], "records of training"),
        ('{"epoch": 1}\n', ["{run}"], "records of training"),
        ('{"step": 1, "eval/wer": 1.0}\n', ["{run}", "--metrics=loss"], "runs: wer.*loss"),
        ('{"step": 1, "eval/wer": 1.0}\n', ["{run}", "--output=a.pdf"], "png"),
    ],
)
def test_bad_input_is_one_line(tmp_path, content, arguments, message):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with refused(match=message):
        main([x.format(run=tmp_path) for x in arguments])


def test_the_curves_are_drawn_by_step(run_folder, monkeypatch, tmp_path):
    figures = recorded(monkeypatch)
    main([str(run_folder), "--metrics=wer,loss", f"--output={tmp_path / 'a.png'}"])
    wer, loss = figures[0].axes
    assert (wer.get_title(), loss.get_title()) == ("wer", "loss")
    assert loss.get_xlabel() == "step"
    np.testing.assert_equal(
        lines_of(loss),
        {
            "train": [(10, 3.0), (20, np.nan), (30, 1.0)],
            "eval_unaveraged": [(20, 2.5)],
            "eval": [(20, 2.0)],
        },
    )
    # A line of one point would not be seen.
    markers = {line.get_label(): line.get_marker() for line in loss.lines}
    assert markers == {"train": "None", "eval_unaveraged": ".", "eval": "."}
    assert [text.get_text() for text in loss.get_legend().get_texts()] == list(markers)
