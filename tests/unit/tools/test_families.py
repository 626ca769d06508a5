"""The table of families: what each offers, and a fourth one as a single file and a single line."""

import numpy as np
import pytest

from tests.support import toy_family
from tests.support.errors import refused
from tools import families
from tools.cli import compare, convert
from tools.cli import list_families as list_families
from tools.inference.options import RunnerOptions
from tools.training.checkpoint import open_checkpoint

OFFERED = ("load_config", "export_checkpoint", "calibration_examples", "open_session")


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_offers_what_programs_need(name):
    of_family = families.family(name)
    assert of_family.__name__ == name
    for function in OFFERED:
        assert callable(getattr(of_family, function))
    assert of_family.load_config(None, {}).training.num_epochs >= 1


def test_scripts_get_the_names_from_the_program(capsys):
    assert list_families.main([]) == 0
    assert capsys.readouterr().out.split() == ["conformer", "vision", "wav2vec2"]


def test_an_unknown_family_is_refused():
    for name in ("os", "Conformer", None):
        with refused("conformer, vision, wav2vec2"):
            families.family(name)


@pytest.fixture(scope="module")
def toy():
    """The one line in the table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(families.FAMILIES, "toy", toy_family.__name__)
        yield


@pytest.fixture(scope="module")
def trained(toy, tmp_path_factory):
    run = tmp_path_factory.mktemp("toy") / "run"
    assert toy_family.train([f"--output_dir={run}"]) == 0
    return run


@pytest.fixture(scope="module")
def exported(trained):
    checkpoint = open_checkpoint(trained)
    directory = trained.parent / "export"
    families.family_of_checkpoint(checkpoint).export_checkpoint(checkpoint, directory)
    return directory


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_a_fourth_family_trains_exports_converts_and_answers(exported, run_eagerly):
    values, labels = toy_family.points(64)
    options = RunnerOptions(run_eagerly=run_eagerly, batch_size=32)
    with families.open_session(exported, options) as session:
        assert isinstance(session, toy_family.ToySession)
        assert session.runner.mode == ("eager" if run_eagerly else "jit")
        assert np.mean(session.classify(values) == labels) > 0.9


def test_programs_take_the_fourth_family_as_it_is(exported, trained, tmp_path, capsys):
    converted = tmp_path / "converted"
    arguments = [f"--native_savedmodel_dir={exported}", f"--converted_savedmodel_dir={converted}"]
    calibration = ["--quant_precision=int8_fp32", f"--calibration_data_dir={tmp_path}"]
    assert convert.main([*arguments, *calibration, "--calibration_samples=8"]) == 0
    assert compare.main([str(trained), str(exported), "--tolerance=1e-5"]) == 0
    assert compare.main([str(exported), str(converted), "--tolerance=0.2"]) == 0
    assert "serving_default" in capsys.readouterr().out


def test_a_model_of_an_unknown_family_is_run_as_it_is(exported):
    """Without its line in the table it has no session of its own, but its signatures still run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(families.FAMILIES, "toy")
        session = families.open_session(exported, RunnerOptions(run_eagerly=True))
        assert not isinstance(session, toy_family.ToySession)
        assert session.run({"points": np.zeros((1, 4), "float32")})["logits"].shape == (1, 2)
