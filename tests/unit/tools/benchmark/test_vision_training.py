"""The benchmark of a training step on a toy architecture, alone and beside a peer of our own."""

import contextlib
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import vision
from tests.support.arguments import joined
from tests.support.errors import refused
from tests.support.page_figures import figures_in
from tests.support.peers import StubPeer, known_times
from tools.benchmark import vision_training as benchmark
from tools.benchmark.sides import EAGER, PEER
from vision.model import ARCHITECTURES

SIDE, NUM_CLASSES = 32, 10
SIZES = {"channel_ratio": 0.25, "hidden_dim": 32, "num_heads": 2, "num_layers": 3}
THREADS = len(os.sched_getaffinity(0))


@pytest.fixture
def arguments(monkeypatch):
    """Those that all runs of the toy have in common."""
    monkeypatch.setitem(ARCHITECTURES, "toy", SIZES)
    flags = f"--arch=toy --num_classes={NUM_CLASSES} --image_size={SIDE} --batch_size=4 --loop=1"
    return [*flags.split(), f"--threads={THREADS}"]


class OwnPeer(StubPeer):
    """The step of PyTorch's side by Keras's own optimizer, on what the peer is given."""

    def __init__(self, wrong_by=0.0):
        self._wrong_by = wrong_by

    def build(self, arguments, weights):
        names = {"embed_dim": "hidden_dim", "depth": "num_layers"}
        names["mlp_ratio"] = "feedforward_multiplier"
        sizes = {names.get(name, name): value for name, value in arguments.items()}
        assert sizes.pop("qkv_bias")
        self._model = vision.build_model(sizes, sizes.pop("num_classes"))
        vision.load_pytorch_weights(self._model, weights)

    def prepare_training(self, targets, settings):
        self._targets = np.load(targets)
        self._optimizer = keras.optimizers.AdamW(
            settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            beta_1=settings["beta_1"],
            beta_2=settings["beta_2"],
            epsilon=settings["epsilon"],
            global_clipnorm=settings["clip_norm"],
        )
        self._optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "token"])

    def train(self):
        with tf.GradientTape() as tape:
            losses = [
                keras.losses.categorical_crossentropy(self._targets, logits, from_logits=True)
                for logits in self._model(self.inputs, training=True)
            ]
            loss = tf.reduce_mean(losses)
        weights = self._model.trainable_variables
        self._optimizer.apply(tape.gradient(loss, [v.value for v in weights]), weights)
        return [2.0, float(loss) + self._wrong_by]


def with_peer(monkeypatch, peer):
    monkeypatch.setattr(benchmark, "open_peer", lambda *_: contextlib.nullcontext(peer))


def test_both_sides_make_the_same_steps(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "RATE", 1e-3)  # or the losses would hardly move
    monkeypatch.setattr(benchmark, "time_in_turn", known_times({PEER: 600.0, EAGER: 400.0}))
    with_peer(monkeypatch, OwnPeer())
    path = tmp_path / "report.json"
    assert benchmark.main([*arguments, f"--json={path}"]) == 0
    report = json.loads(path.read_text())
    peer, ours = report["first_losses"].values()
    assert len(peer) == benchmark.NUM_COMPARED
    np.testing.assert_allclose(ours, peer, rtol=1e-3)
    assert peer[0] - peer[-1] > 0.05
    expected, found = report["sides"].values()
    assert (expected["median_ms"], found["median_ms"]) == (600.0, 400.0)
    assert (found["speedup"], found["fps"]) == (1.5, 10.0)
    assert "speedup" not in expected
    assert report["versions"]["torch"] == "0"
    printed = capsys.readouterr().out
    assert "10.00 images/s, 1.50 x pytorch eager;" in printed
    figures = figures_in(printed, "vision_training", "training-step-vision-conformer")
    assert list(figures.values()) == ["600 ms", "400 ms", "1.50 x", None, None]


def test_another_model_is_refused(arguments, monkeypatch):
    monkeypatch.setattr(benchmark, "NUM_COMPARED", 1)  # only the first is judged
    with_peer(monkeypatch, OwnPeer(wrong_by=0.02))
    with refused(match="first losses that agree"):
        benchmark.main(arguments)


def test_our_side_alone_beside_the_pipeline(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmark, "PIPELINE_SECONDS", 0.2)
    monkeypatch.setattr(benchmark, "time_in_turn", known_times({EAGER: 200.0}))
    path = tmp_path / "report.json"
    benchmark.main([*arguments, "--pipeline", "--auto_augment=none", f"--json={path}"])
    printed = capsys.readouterr()
    assert "no --peer_repo: our side runs alone" in printed.err
    report = json.loads(path.read_text())
    (ours,) = report["sides"].values()
    assert "speedup" not in ours
    pipeline = report["pipeline"]
    assert ours["fps"] == 20.0
    assert pipeline["against_step"] == pytest.approx(pipeline["images_per_second"] / 20.0)
    assert f"{pipeline['images_per_second']:.1f} images/s" in printed.out
    figures = figures_in(printed.out, "vision_training", "training-step-vision-conformer")
    speed, ratio = list(figures.values())[-2:]
    assert float(speed.split()[0]) == pytest.approx(pipeline["images_per_second"], abs=1)
    assert float(ratio.split()[0]) == pytest.approx(pipeline["against_step"], abs=1)


def test_targets_are_shares_of_two_classes():
    targets = benchmark.soft_targets(50, NUM_CLASSES)
    np.testing.assert_allclose(targets.sum(1), 1.0, rtol=1e-6)
    assert set(np.count_nonzero(targets, axis=1)) <= {1, 2}
    assert np.all(targets.max(1) >= 0.5)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--loop=0", "--loop"),
        ("--batch_size=0", "--batch_size"),
        ("--threads=0", "--threads"),
        ("--set=training.precision=mixed_bfloat16", "float32 and adamw"),
        ("--set=training.optimizer.name=momentum", "float32 and adamw"),
        ("rest", "See --help"),
    ],
)
def test_bad_flags_are_refused(flag, expected):
    with refused(match=expected):
        benchmark.main(joined([f"--threads={THREADS}"], [flag]))
