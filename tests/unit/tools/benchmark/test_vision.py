"""The benchmark of the vision family on a toy architecture, alone and beside a peer of our own."""

import contextlib
import json
import os
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import vision
from tests.support.arguments import joined
from tests.support.conversions import shared_translations
from tests.support.errors import refused
from tests.support.peers import StubPeer, known_times
from tools.benchmark import vision as benchmark
from tools.benchmark.sides import EAGER, PEER, LocalSide, export_name
from tools.benchmark.vision_models import calibrate_batch_norm, made_images
from tools.conversion.rewrites.cleaning import clean
from tools.conversion.signature import to_onnx
from vision.model import ARCHITECTURES

SIDE, NUM_CLASSES = 32, 10
SIZES = {"channel_ratio": 0.25, "hidden_dim": 32, "num_heads": 2, "num_layers": 3}
SHAPE = (SIDE, SIDE, 3)
THREADS = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The folder of models, each of which is made by the first run that wants it."""
    with shared_translations():
        yield tmp_path_factory.mktemp("work")


@pytest.fixture
def arguments(monkeypatch, work):
    """Those that all runs of the toy have in common."""
    monkeypatch.setitem(ARCHITECTURES, "toy", SIZES)
    return [
        "--architectures=toy",
        f"--num_classes={NUM_CLASSES}",
        f"--image_size={SIDE}",
        "--batch_sizes=1,2",
        "--loop=2",
        "--warmup_seconds=0",
        "--backends=openvino",
        "--calibration_samples=16",
        f"--threads={THREADS}",
        f"--work_dir={work}",
    ]


@pytest.fixture
def photos(tmp_path, rng):
    """An ImageFolder."""
    for number in range(40):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (9, 9, 3), np.uint8)
        Image.fromarray(pixels).resize((80, 72)).save(folder / f"{number}.jpg")
    return tmp_path / "photos"


def test_our_side_runs_alone_and_says_so(arguments, photos, work, tmp_path, capsys):
    report = tmp_path / "report.json"
    flags = [*arguments, f"--data_dir={photos}", "--eval_images=20"]
    benchmark.main([*flags, "--table", f"--json={report}"])
    printed = capsys.readouterr()
    assert "no --peer_repo: our side runs alone" in printed.err
    found = json.loads(report.read_text())
    assert found["threads"] == THREADS
    assert {"tensorflow", "openvino"} <= found["versions"].keys()
    (toy,) = found["architectures"]
    int8 = "openvino int8_fp32 linear symm"
    names = ["tensorflow eager", "openvino fp32", f"{int8} per_tensor", f"{int8} per_axis"]
    assert [row["batch"] for row in toy["results"]] == [1, 2]
    for row in toy["results"]:
        assert list(row["sides"]) == names
        for side in row["sides"].values():
            assert side["p95_ms"] >= side["median_ms"] > 0
            assert side["fps"] == pytest.approx(1e3 * row["batch"] / side["median_ms"])
            assert not {"speedup", "against_export"} & side.keys()
    errors = {name: x["logits"] for name, x in toy["logit_errors"].items()}
    assert 1e-5 < errors.pop("tensorflow eager, 0.1% noise on images") < 0.1
    assert list(errors) == names
    assert errors["openvino fp32"] < 1e-4 < errors[names[3]] < 0.5
    for facts in toy["evaluation"].values():
        assert 0 <= facts["decode_wait_share"] <= 1
        assert (facts["num_images"], facts["batch_size"]) == (20, 16)
    assert "| toy bs2 | " in printed.out
    assert printed.out.count("waits") == len(names)

    manifests = {path: path.stat().st_mtime_ns for path in work.rglob("manifest.json")}
    places = {path.parent.name for path in manifests}
    assert {name.replace(" ", "-") for name in names[1:]} <= places
    benchmark.main(joined(flags, ["--batch_sizes=1", "--eval_images=0"]))
    assert {path: path.stat().st_mtime_ns for path in work.rglob("manifest.json")} == manifests


class OwnPeer(StubPeer):
    """What the PyTorch model would answer, computed by ours from what the peer is given."""

    def build(self, arguments, weights):
        ours = {"embed_dim": "hidden_dim", "depth": "num_layers"}
        ours["mlp_ratio"] = "feedforward_multiplier"
        sizes = {ours.get(name, name): value for name, value in arguments.items()}
        assert sizes.pop("qkv_bias")
        self._model = vision.build_model(sizes, sizes.pop("num_classes"))
        vision.load_pytorch_weights(self._model, weights)

    def export(self, path, inputs, outputs):
        assert self.inputs.shape == (1, *SHAPE)
        spec = tf.TensorSpec([None, 3, SIDE, SIDE], tf.float32, inputs)

        def answer(images):
            logits = self._model(tf.transpose(images, [0, 2, 3, 1]))
            return dict(zip(outputs, logits, strict=True))

        function = tf.function(answer, input_signature=[spec])
        graph = to_onnx(function.get_concrete_function(), "peer")
        clean(graph)
        Path(path).write_bytes(graph.SerializeToString())

    def logits(self):
        return np.stack([x.numpy() for x in self._model(self.inputs)])


def test_a_peer_is_given_the_same_model_and_runs_in_turn(arguments, tmp_path, capsys, monkeypatch):
    report, ours = tmp_path / "report.json", ["tensorflow eager", "openvino fp32"]
    medians = {PEER: 900.0, ours[0]: 1200.0, ours[1]: 300.0, export_name("openvino"): 450.0}
    monkeypatch.setattr(benchmark, "time_in_turn", known_times(medians))
    monkeypatch.setattr(benchmark, "open_peer", lambda *_: contextlib.nullcontext(OwnPeer()))
    flags = ["--batch_sizes=2", "--precisions=fp32", f"--json={report}"]
    benchmark.main(joined(arguments, flags))
    found = json.loads(report.read_text())
    assert found["versions"]["torch"] == "0"
    (toy,) = found["architectures"]
    names = [PEER, *ours, export_name("openvino")]
    assert list(toy["logit_errors"]) == [*names, "tensorflow eager, 0.1% noise on images"]
    for name in names:
        assert max(toy["logit_errors"][name].values()) < 1e-4
    (row,) = toy["results"]
    assert list(row["sides"]) == names
    assert [row["sides"][name]["median_ms"] for name in names] == list(medians.values())
    speedups = [row["sides"][name].get("speedup") for name in names]
    assert speedups == [None, 0.75, 3.0, 2.0]
    against = {name: x["against_export"] for name, x in row["sides"].items() if len(x) > 4}
    assert against == {"openvino fp32": 1.5}
    printed = capsys.readouterr().out
    assert re.search(r"openvino fp32 +300.0 +600.0 +6.7 +3.00 +1.50\n", printed)


def test_errors_are_those_of_both_heads_and_of_their_sum(rng):
    heads = rng.standard_normal((2, 3, 4)).astype(np.float32)
    off = heads + np.array([0.0, 1.0], "f")[:, None, None]  # of the second head

    def side(answer):
        return LocalSide(lambda x: x, lambda x: x, lambda _: answer)

    found = benchmark.logit_errors({EAGER: side(heads), "b": side(off)}, np.ones((3, 2), "f"))
    second, both = (np.sqrt(12) / np.linalg.norm(x) for x in (heads[1], heads.sum(0)))
    errors = [0.0, pytest.approx(second), pytest.approx(both)]
    assert list(found["b"].values()) == errors
    assert set(found[EAGER].values()) == {0.0}


def test_the_table_has_images_per_second_by_batch_size():
    results = [
        {"batch": batch, "sides": {"a": {"fps": 2.0 * batch}, "b": {"fps": 0.5}}}
        for batch in (1, 8)
    ]
    title, rule, *rows = benchmark.fps_table("conformer_small_patch16", results).splitlines()
    assert title == "| model | a | b |"
    assert rule.count("---:") == 3
    assert rows == [
        "| Conformer-small-patch16 bs1 | 2.0000fps | 0.5000fps |",
        "| Conformer-small-patch16 bs8 | 16.0000fps | 0.5000fps |",
    ]


def test_batch_norms_are_calibrated_as_a_training_would(rng):
    images = rng.standard_normal((4, *SHAPE)).astype(np.float32)
    moved = {}
    for kind in ("mean", "running"):
        keras.utils.set_random_seed(1)
        model = vision.build_model(SIZES, NUM_CLASSES)
        calibrate_batch_norm(model, [images], kind)
        moved[kind] = next(x.numpy() for x in model.weights if "/moving_mean" in x.path)
        if kind == "mean":
            for found, expected in zip(model(images), model(images, training=True), strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moved["running"], 0.1 * moved["mean"], rtol=1e-3, atol=1e-6)
    # Of several batches the mean counts, the same as of all images at once in the first norm.
    calibrate_batch_norm(model, [images[:2], images[2:]], "mean")
    halves = next(x.numpy() for x in model.weights if "/moving_mean" in x.path)
    np.testing.assert_allclose(halves, moved["mean"], rtol=1e-3, atol=1e-5)


def test_made_up_images_are_smooth():
    images = made_images(2, 96)
    assert images.shape == (2, 96, 96, 3)
    assert images.std() == pytest.approx(1.0, abs=1e-3)
    assert np.abs(np.diff(images, axis=1)).mean() < 0.5


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--batch_sizes=1,x", "--batch_sizes"),
        ("--batch_sizes=0", "--batch_sizes"),
        ("--loop=0", "--loop"),
        ("--calibration_samples=1", "--calibration_samples"),
        ("--backends=paper", "a backend"),
        ("--precisions=fp32,int4", "Received: int4"),
        ("--threads=0", "--threads"),
        ("--threads=100000", "--threads"),
        ("--checkpoint=some.pth", "--architectures"),
        ("--architectures=conformer_huge", "conformer_base"),
        ("more", "See --help"),
    ],
)
def test_bad_flags_are_refused(flag, expected):
    with refused(expected):
        benchmark.main(joined([f"--threads={THREADS}"], [flag]))
