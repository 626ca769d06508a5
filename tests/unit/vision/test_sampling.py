"""Tests which images an evaluation uses and how often it runs them, with a trivial model."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import vision.eval
from tools.inference.report import Stopwatch
from tools.inference.selection import share
from vision.classes import Classes
from vision.config import PreprocessingConfig
from vision.input_pipeline import read_image_folder
from vision.options import ClassifierOptions, EvaluationOptions, ImageDataOptions
from vision.program import Classification
from vision.session import ImageSession

NAMES = ["blue", "green", "red"]


class Brightest:
    """A model that predicts the brightest channel as the class, and counts its batches."""

    mode, backend, precision, files = "jit", "none", "fp32", ()
    signatures = {"serving_default": ()}  # noqa: RUF012 - a stand-in
    pipeline = {"layout": "NHWC", "input": "images", "num_classes": 3}  # noqa: RUF012 - a stand-in

    def __init__(self):
        self.batches = []

    def run(self, inputs, signature="serving_default"):
        self.batches.append(len(inputs["images"]))
        return {"logits": inputs["images"].mean(axis=(1, 2))}


@pytest.fixture
def folder(tmp_path):
    """Writes seven images of each class; the fourth has the color of another class."""
    for label, name in enumerate(NAMES):
        (tmp_path / "val" / name).mkdir(parents=True)
        for index in range(7):
            pixels = np.full((8, 8, 3), 20, "uint8")
            pixels[..., (label + (index == 3)) % 3] = 200
            Image.fromarray(pixels).save(tmp_path / "val" / name / f"{index}.png")
    return tmp_path / "val"


@pytest.fixture
def session():
    preprocessing = PreprocessingConfig(image_size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    return ImageSession(Brightest(), preprocessing, Classes(NAMES), batch_size=2)


@pytest.mark.parametrize(
    ("count", "seed", "ratio"), [(9, 5, 1.0), (9, 6, 1.0), (-1, 5, 1.0), (-1, 5, 0.5), (12, 5, 0.5)]
)
def test_the_images_of_a_sample_are_those_of_its_seed(
    folder, session, tmp_path, monkeypatch, count, seed, ratio
):
    monkeypatch.setattr(vision.eval, "open_classifier", lambda *_: session)
    report = tmp_path / "report.json"
    data = ImageDataOptions(
        paths=(str(folder),), batch_size=4, data_ratio=ratio, result_path=str(report)
    )
    options = EvaluationOptions(ClassifierOptions(), data, num_samples=count, seed=seed)
    assert vision.eval.evaluate(options) == 0
    sample = read_image_folder(folder).sample(count, seed)
    assert sample.paths != read_image_folder(folder).sample(9, seed + 1).paths
    expected = share(list(zip(sample.paths, sample.labels, strict=True)), ratio)
    with report.with_suffix(".tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["PATH"], int(row["LABEL"])) for row in rows] == expected
    predicted = [(label + path.endswith("3.png")) % 3 for path, label in expected]
    assert [int(row["PREDICTED"]) for row in rows] == predicted
    summary = json.loads(report.read_text())
    hits = sum(x == label for x, (_, label) in zip(predicted, expected, strict=True))
    assert summary["top1"] == pytest.approx(hits / len(expected))
    assert (summary["num_images"], summary["top5"]) == (len(expected), 1.0)


def test_the_first_batch_alone_warms_up_and_the_last_may_be_smaller(folder, session):
    paths = read_image_folder(folder).paths[:5]
    data = ImageDataOptions(batch_size=2, warmup_count=3)
    run = Classification(session, paths, data)
    found = [(indices, outputs["logits"].shape) for indices, outputs in run]
    assert found == [([0, 1], (2, 3)), ([2, 3], (2, 3)), ([4], (1, 3))]
    assert session.runner.batches == [2, 2, 2, 2, 2, 1]
    assert isinstance(run.watch, Stopwatch) and len(run.watch.laps) == 3
    # A second run over the same images starts again at 0.
    assert len(list(run)) == 3
    assert len(run.watch.laps) == 3 and run.skipped == []
