"""Tests the benchmarks of the Conformer's loss and training step on tiny sizes."""

import json

import pytest

import conformer
from tests.support.errors import refused
from tools.benchmark import conformer_training, own_process, transducer_loss
from tools.benchmark.transducer_loss import FORMS, Sizes


def test_the_forms_of_the_loss_are_measured_on_the_same_inputs():
    sizes = Sizes(2, 6, 3, 5, 4, s_range=2)
    found = [transducer_loss.measure(form, sizes, rounds=1) for form in FORMS]
    assert [x["form"] for x in found] == list(FORMS)
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)
    assert all(x["time_s"] > 0 and x["peak_bytes"] >= 0 for x in found)


def test_a_step_of_training_is_measured(tiny_config):
    assert FORMS == ("plain", "fused", "pruned")
    batch = conformer_training.Batch(size=2, seconds=0.5, labels=3, vocabulary=7)
    found = conformer_training.measure(tiny_config, batch, rounds=1)
    assert (found["loss"], found["precision"]) == ("fused", "float32")
    assert found["samples_per_second"] == pytest.approx(2 / found["step_s"])
    assert min(found["first_step_s"], found["step_s"]) > 0
    shares = found["shares"]
    assert min(shares["features"], shares["encoder_with_features"]) > 0
    assert shares["encoder_with_features"] + shares["loss_and_update"] == pytest.approx(1)


@pytest.fixture
def tiny_config():
    changes = {
        "model.num_layers": 1,
        "model.hidden_dim": 8,
        "model.num_heads": 2,
        "model.kernel_size": 3,
        "model.subsampling_filters": 4,
        "model.prediction_dim": 6,
        "model.joint_dim": 5,
        "loss.kind": "fused",
    }
    return conformer.load_config(None, changes)


def test_the_rate_of_products_is_weighted_by_their_operations(monkeypatch):
    """Half of the operations at 1 and half at 3 operations a nanosecond take the time of 1.5."""
    shapes = {(2, 3, 4): 0.5, (5, 6, 7): 0.5}
    rates = iter([1e9, 3e9])
    sizes = iter(shapes)

    class Fixed:
        @staticmethod
        def median(times):
            m, k, n = next(sizes)
            return 2.0 * m * k * n / next(rates)

    monkeypatch.setattr(own_process, "np", Fixed)
    assert own_process.gemm_gflops(shapes, seconds=0) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (transducer_loss, ["--vocabulary=1"], "--vocabulary >= 2"),
        (transducer_loss, ["--frames=0"], "sizes of at least 1"),
        (transducer_loss, ["--threads=0"], "--threads"),
        (transducer_loss, ["--s_range=0"], "--s_range from 2 to 101"),
        (transducer_loss, ["--labels=3", "--s_range=5"], "--s_range from 2 to 4"),
        (conformer_training, ["--vocabulary=1"], "--vocabulary >= 2"),
        (conformer_training, ["--seconds=nan"], "--seconds > 0"),
        (conformer_training, ["--config=/nowhere.yml"], "/nowhere.yml"),
    ],
)
def test_bad_input_is_one_line(program, arguments, message):
    with refused(message):
        program.main(arguments)


def test_reports_hold_every_kind(tmp_path, monkeypatch):
    def measured(function, *arguments):
        if function is own_process.gemm_gflops:
            return 100.0
        named = {"form": arguments[0]} if isinstance(arguments[0], str) else {}
        return named | {"time_s": 1.0, "peak_bytes": 2, "loss": 3.0, "step_s": 4.0,
                        "first_step_s": 5.0}  # fmt: skip

    for program in (transducer_loss, conformer_training):
        monkeypatch.setattr(program, "in_own_process", measured)
    path = tmp_path / "report.json"
    assert transducer_loss.main([f"--json={path}"]) == 0
    report = json.loads(path.read_text())
    assert report["gemm_gflops"] == 100.0
    assert [x["form"] for x in report["forms"]] == list(FORMS)
    assert conformer_training.main(["--all", f"--json={path}"]) == 0
    assert len(json.loads(path.read_text())["kinds"]) == 2 * len(FORMS)
    assert conformer_training.main(["--loss=fused", f"--json={path}"]) == 0
    assert json.loads(path.read_text())["step_s"] == 4.0


def test_the_default_is_the_config_of_the_family():
    assert conformer.load_config().loss.kind == "plain"
