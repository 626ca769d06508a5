"""Tests the benchmarks of the Conformer's loss and training step on tiny sizes."""

import json

import pytest

import conformer
from tests.support.errors import refused
from tests.support.speech import write_librispeech
from tools.benchmark import (
    conformer_training,
    frame_budget,
    longest_utterance,
    own_process,
    transducer_loss,
)
from tools.benchmark.conformer_step import Batch, OurStep
from tools.benchmark.conformer_training_peer import read_recipe
from tools.benchmark.transducer_loss import FORMS, Sizes

TINY = {
    "model.num_layers": 1,
    "model.hidden_dim": 8,
    "model.num_heads": 2,
    "model.kernel_size": 3,
    "model.subsampling_filters": 4,
    "model.prediction_dim": 6,
    "model.joint_dim": 5,
    "loss.kind": "fused",
}


def test_the_forms_of_the_loss_are_measured_on_the_same_inputs():
    sizes = Sizes(2, 6, 3, 5, 4, s_range=2)
    forms = [*FORMS, transducer_loss.WHOLE]
    found = [transducer_loss.measure(form, sizes, rounds=1) for form in forms]
    assert [x["form"] for x in found] == forms
    for exact in (found[1], found[3]):
        assert exact["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)
    assert all(x["time_s"] > 0 and x["peak_bytes"] >= 0 for x in found)


def test_a_step_of_training_is_measured(tiny_config):
    assert FORMS == ("plain", "fused", "pruned")
    batch = Batch(size=2, seconds=0.5, labels=3, vocabulary=7)
    kinds = {("fused", "float32", "none"): Here(OurStep(tiny_config, batch)), "peer": FakePeer()}
    found, peer = conformer_training.measure(kinds, batch, rounds=3)
    assert (found["loss"], found["precision"], found["rematerialize"]) == next(iter(kinds))
    assert found["samples_per_second"] == pytest.approx(2 / found["step_s"])
    assert min(found["first_step_s"], found["step_s"], found["peak_bytes"]) > 0
    shares = found["shares"]
    assert min(shares["features"], shares["encoder_with_features"]) > 0
    assert shares["encoder_with_features"] + shares["loss_and_update"] == pytest.approx(1)
    # The first step, one that is not timed, and the median of three.
    assert (peer["first_step_s"], peer["step_s"], peer["peak_bytes"]) == (5.0, 3.0, 100)
    conformer_training.compare([found, peer])
    assert found["against_peer"]["step_s"] == pytest.approx(found["step_s"] / 3.0)
    assert "against the peer" in conformer_training.line_of(found)


class Here:
    """A side in this process."""

    def __init__(self, target):
        self.target = target

    def ask(self, method, *arguments):
        return getattr(self.target, method)(*arguments)


class FakePeer:
    def __init__(self):
        self.seconds = iter([5.0, 9.0, 2.0, 4.0, 3.0])

    def ask(self, method):
        answers = {"peak_bytes": 100, "versions": {"tensorflow": "2"}}
        return (next(self.seconds), 1.0) if method == "train" else answers[method]


def test_an_object_in_a_process_of_its_own_keeps_its_state():
    side = own_process.OwnProcess(list, [3, 1, 2])
    side.ask("sort")
    assert side.ask("pop") == 3 and side.ask("__len__") == 2
    side.close()


def test_the_recipe_of_the_peer_is_read():
    text = (
        "model_config:\n  blank: 0\n  vocab_size: {{decoder_config.vocabsize}}\n"
        "learning_config:\n  epsilon: 1e-9\n  max_lr: 0.05/(144**0.5)\n"
        "  steps: [1, 2e3]\n  filepath: {{modeldir}}/checkpoints/{epoch:02d}.weights.h5\n"
    )
    recipe = read_recipe(text, 1000)
    assert recipe["model_config"] == {"blank": 0, "vocab_size": 1000}
    assert recipe["learning_config"]["epsilon"] == 1e-9
    assert recipe["learning_config"]["max_lr"] == "0.05/(144**0.5)"
    assert recipe["learning_config"]["steps"] == [1, 2000.0]


def test_the_longest_utterance_is_that_which_fits(monkeypatch, tiny_config, tmp_path):
    """With a fake trial that takes 10 bytes for each second and 1 for each label."""

    def peak(limit, function, config, batch):
        assert function is longest_utterance.train_twice and batch.size == 1
        assert (config.loss.kind, config.training.rematerialize) in longest_utterance.KINDS
        factor = 1e6 if config.loss.kind == "fused" else 4e6
        needed = int(factor * (10 * batch.seconds + batch.labels))
        return needed if needed <= limit else None

    monkeypatch.setattr(longest_utterance, "peak_within", peak)
    path = tmp_path / "longest.json"
    assert (
        longest_utterance.main(["--memory_gb=1.2", f"--json={path}", "--labels_per_second=2"]) == 0
    )
    report = json.loads(path.read_text())
    plain, fused = (kind["longest_seconds"] for kind in report["kinds"])
    assert 24 <= plain <= 25 and 95 <= fused <= 100
    assert report["ratio"] == pytest.approx(fused / plain)


def test_batches_of_a_budget_train_on_a_corpus(tmp_path, rng):
    seconds = [
        0.3,
        0.35,
        0.4,
        0.45,
        0.5,
        0.6,
        1.2,
    ]  # an odd number: a batch of two has a masked row
    sounds = [("ONE TWO", rng.normal(0, 0.1, round(16000 * s))) for s in seconds]
    write_librispeech(tmp_path / "train-clean-100", sounds)
    config = conformer.load_config(
        None, {**TINY, "data.data_dir": str(tmp_path), "data.max_seconds": 1.5}
    )
    fixed = frame_budget.without_budget(config, 2)
    assert (fixed.training.batch_size, fixed.data.max_batch_seconds) == (2, 0)
    training = frame_budget.Training(fixed)
    num_utterances, longest = training.sizes()
    assert num_utterances == len(seconds) and longest == pytest.approx(1.2, abs=1e-3)
    budget = frame_budget.with_budget(config, 2, longest)
    sides = {"8 buckets": Here(training), "budget": Here(frame_budget.Training(budget))}
    report = frame_budget.train_in_turn(sides, num_utterances, epochs=2)
    assert report["8 buckets"]["steps"] >= 2 * len(seconds) / 2
    assert report["budget"]["steps"] < report["8 buckets"]["steps"]
    for one in report.values():  # whole epochs: equal utterances, equal sound
        assert one["utterances_per_second"] * one["seconds"] == pytest.approx(2 * len(seconds))
        samples = one["samples_per_second"] * one["seconds"]
        assert samples == pytest.approx(2 * 16000 * sum(seconds), abs=20)
        assert 0 <= one["padding_share"] < 0.5 and one["peak_bytes"] > 0


@pytest.mark.parametrize("longest", [1.2, 16.93, 1 / 3, 7.0])
def test_two_of_the_longest_fill_the_budget(longest):
    """Training rounds the budget down to samples; less than two would fit with a rounded budget."""
    config = frame_budget.with_budget(conformer.load_config(None), 2, longest)
    budget, samples = int(config.data.max_batch_seconds * 16000), round(longest * 16000)
    assert 2 * samples <= budget <= 2 * samples + 33


def test_the_share_of_padding():
    parts = [
        {"seconds": 1.0, "steps": 2.0, "utterances": 3.0, "samples": 60.0, "padded": 80.0},
        {"seconds": 3.0, "steps": 1.0, "utterances": 5.0, "samples": 30.0, "padded": 40.0},
    ]
    found = frame_budget.summary(parts)
    assert found["padding_share"] == pytest.approx(0.25)
    assert found["utterances_per_second"] == 2.0 and found["samples_per_second"] == 22.5
    assert found["padded_samples_per_second"] == 30.0
    assert (found["seconds"], found["steps"]) == (4.0, 3.0)


@pytest.fixture
def tiny_config():
    return conformer.load_config(None, TINY)


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
        (conformer_training, ["--peer_repo=/nowhere"], "--peer_repo. Received: /nowhere"),
        (longest_utterance, ["--memory_gb=0"], "--memory_gb above 0"),
        (longest_utterance, ["--most_seconds=0"], "--most_seconds >= 1"),
        (longest_utterance, ["--vocabulary=1"], "--vocabulary >= 2"),
        (frame_budget, [], "--data_dir"),
        (frame_budget, ["--data_dir=x", "--epochs=0"], "--epochs and --batch_size >= 1"),
    ],
)
def test_bad_input_is_one_line(program, arguments, message):
    with refused(message):
        program.main(arguments)


def test_reports_hold_every_kind(tmp_path, monkeypatch):
    def measured(function, *arguments):
        if function is own_process.gemm_gflops:
            return 100.0
        return {"form": arguments[0], "time_s": 1.0, "peak_bytes": 2, "loss": 3.0}

    class FakeSide:
        """A side that takes 4 s for every step."""

        def __init__(self, make, config, batch):
            made.append((config.loss.kind, config.training.precision))

        def ask(self, method, *arguments):
            parts = {"features": 1.0, "encoder_with_features": 2.0}
            answers = {"train": (4.0, 1.0), "peak_bytes": 7, "part_seconds": parts}
            return answers[method]

        def close(self):
            made.append("closed")

    made = []
    for program in (transducer_loss, conformer_training):
        monkeypatch.setattr(program, "in_own_process", measured)
    monkeypatch.setattr(conformer_training, "OwnProcess", FakeSide)
    path = tmp_path / "report.json"
    assert transducer_loss.main([f"--json={path}"]) == 0
    report = json.loads(path.read_text())
    assert report["gemm_gflops"] == 100.0
    assert [x["form"] for x in report["forms"]] == list(FORMS)
    assert transducer_loss.main(["--whole", f"--json={path}"]) == 0
    forms = [x["form"] for x in json.loads(path.read_text())["forms"]]
    assert forms == [*FORMS, transducer_loss.WHOLE]
    assert conformer_training.main(["--all", f"--json={path}"]) == 0
    kinds = json.loads(path.read_text())["kinds"]
    assert [(x["loss"], x["precision"]) for x in kinds] == made[: 2 * len(FORMS)]
    assert len({*made} - {"closed"}) == 2 * len(FORMS) == made.count("closed")
    assert conformer_training.main(["--rematerialize", f"--json={path}"]) == 0
    kinds = json.loads(path.read_text())["kinds"]
    assert [x["rematerialize"] for x in kinds] == ["none", "blocks"]
    assert conformer_training.main(["--loss=fused", f"--json={path}"]) == 0
    assert json.loads(path.read_text())["step_s"] == 4.0


def test_the_default_is_the_config_of_the_family():
    assert conformer.load_config().loss.kind == "plain"
