"""The program that draws learning rates: what it says, the picture, refusals."""

import numpy as np
import pytest
from PIL import Image

from tests.support.errors import refused
from tests.support.figures import lines_of, recorded
from tools.cli.plot_schedule import curve, main, read_training
from tools.families import FAMILIES
from tools.training.config import ScheduleConfig, TrainingConfig


def colored(path):
    """Columns of a picture where there is a saturated pixel, a curve's."""
    pixels = np.asarray(Image.open(path).convert("HSV")).astype(int)
    return (pixels[..., 1] > 100).any(axis=0).sum()


def test_one_picture_of_several_configs(project, tmp_path, capsys):
    picture = tmp_path / "rates.png"
    configs = [str(project / f"configs/{family}/smoke.yml") for family in FAMILIES]
    assert main([*configs, "--steps_per_epoch=20", f"--output={picture}"]) == 0
    told = capsys.readouterr().err.splitlines()
    told = dict(zip(FAMILIES, told, strict=True))
    vision = told["vision"]
    assert "cosine, 15 epochs" in vision and "highest 0.002, last 1e-05" in vision
    assert "transformer, 2 epochs" in told["conformer"]
    assert "transformer, 2 epochs" in told["wav2vec2"] and "highest 0.001" in told["wav2vec2"]
    assert colored(picture) > 400, "a curve goes through most of the picture"


def test_the_settings_of_the_command_line_count(project, tmp_path, capsys):
    config = str(project / "configs/vision/smoke.yml")
    main([config, f"-o={tmp_path / 'a.png'}", "--set=training.schedule.name=constant"])
    assert "constant" in capsys.readouterr().err


def test_a_curve_begins_and_ends_with_the_run():
    schedule = ScheduleConfig(name="cosine", peak=0.5, warmup_epochs=1.0, final=0.1)
    epochs, rates = curve(TrainingConfig(num_epochs=4, schedule=schedule), 10)
    assert (epochs[0], epochs[9], epochs[-1]) == (0.1, 1.0, 4.0)
    assert (rates[0], rates[9], rates[-1]) == pytest.approx((0.05, 0.5, 0.1))
    assert len(curve(TrainingConfig(num_epochs=300, schedule=schedule), 1251)[0]) < 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "CONFIG"),
        (["configs/vision/smoke.yml", "--steps_per_epoch=0"], "steps_per_epoch"),
        (["configs/vision/smoke.yml", "--output=a.pdf"], "png"),
        (["elsewhere.yml"], "folder called conformer, vision, wav2vec2.*--family"),
        (["vision/none.yml"], "none.yml"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    with refused(match=message):
        main(arguments)


def test_the_curves_are_those_of_the_configs(monkeypatch, project, tmp_path):
    figures = recorded(monkeypatch)
    configs = [str(project / f"configs/{family}/smoke.yml") for family in ("vision", "conformer")]
    main([*configs, "--steps_per_epoch=20", f"--output={tmp_path / 'rates.png'}"])
    (axes,) = figures[0].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "learning rate")
    lines = lines_of(axes)
    assert list(lines) == ["smoke: cosine", "smoke: transformer"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(lines)
    for (name, points), path in zip(lines.items(), configs, strict=True):
        family = "vision" if "cosine" in name else "conformer"
        expected = curve(read_training(path, family, {}), 20)
        np.testing.assert_allclose(points, np.transpose(expected))
    assert axes.get_ylim()[0] == 0


def test_a_long_curve_is_thinned_evenly():
    schedule = ScheduleConfig(name="cosine", peak=0.5, warmup_epochs=1.0, final=0.1)
    epochs, _ = curve(TrainingConfig(num_epochs=10, schedule=schedule), 2000)
    assert 3000 < len(epochs) < 5000
    assert len(set(np.diff(epochs).round(9))) == 1
