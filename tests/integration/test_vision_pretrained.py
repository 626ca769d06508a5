"""The bundled classifier of photographs: what its card tells, converted, in 8 bits, explained."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from vision import activation_map
from vision.eval import main as evaluate


@pytest.fixture(scope="module")
def photos_model(project):
    """The folder of the model."""
    return project / "vision" / "pretrained" / "photos"


@pytest.fixture(scope="module")
def evaluated(shared_data, photos_model, tmp_path_factory):
    """Evaluates with some flags: the report, and the table of its answers."""
    photos = shared_data / "photos_train"

    def run(*flags):
        folder = tmp_path_factory.mktemp("report")
        arguments = [f"--native_savedmodel_dir={photos_model}", f"--data_dir={photos / 'val'}"]
        arguments += [f"--calibration_data_dir={photos / 'train'}", "--batch_size=16"]
        arguments += [f"--result_path={folder / 'report.json'}", f"--analysis_dir={folder}"]
        assert evaluate([*arguments, *flags]) == 0
        return json.loads((folder / "report.json").read_text()), folder

    return run


@pytest.fixture(scope="module")
def whole(evaluated):
    """The report of the converted model, whose answers are those of TensorFlow."""
    return evaluated("--run_eagerly=0")


def test_the_card_tells_the_accuracy_of_each_class(whole, photos_model):
    report, folder = whole
    card = (photos_model / "MODEL_CARD.md").read_text()
    told = float(re.search(r"\| top-1 accuracy \| ([0-9.]+) % \|", card)[1])
    assert report["num_images"] == 324
    assert 100 * report["top1"] == pytest.approx(told, abs=0.35), "an image is 0.31 %"
    # Logistic regression on color histograms reaches 66.7 % (tools.benchmark.color_histograms).
    assert report["top1"] > 0.667 + 0.1
    matrix = np.loadtxt(
        folder / "confusion_matrix.csv", delimiter=",", skiprows=1, usecols=range(1, 7)
    )
    rows = re.findall(r"^\| \w+((?: \| \d+){6}) \|", card, re.MULTILINE)
    told = np.array([row.split(" | ")[1:] for row in rows], float)
    assert np.abs(told - matrix).sum() <= 2, "one image may fall to the other side"


def test_eight_bits_cost_no_point(evaluated, whole):
    small, _ = evaluated("--run_eagerly=0", "--quant_precision=int8_fp32")
    whole, _ = whole
    assert (whole["mode"], small["precision"]) == ("jit", "int8_fp32")
    assert small["top1"] >= whole["top1"] - 0.01
    assert small["model_mib"] < 0.6 * whole["model_mib"]


def test_activation_maps_show_where_a_class_is_seen(shared_data, photos_model, tmp_path, capsys):
    photo = sorted((shared_data / "photos_train" / "val" / "glass").iterdir())[0]
    output = tmp_path / "map.png"
    arguments = [str(photo), f"--native_savedmodel_dir={photos_model}", f"--output={output}"]
    assert activation_map.main(arguments) == 0
    assert f"{photo.name} (class: 1 glass)" in capsys.readouterr().err
    with Image.open(output) as picture:
        saturation = np.asarray(picture.convert("HSV"))[..., 1]
    assert (saturation > 128).mean() > 0.05, "maps are laid over the photograph in colors"
