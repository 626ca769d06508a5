"""The benchmark of the vision family on a toy architecture, alone and beside a peer of our own."""

import contextlib
import json
import os
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import vision
from tools.benchmark import vision as benchmark
from tools.benchmark.peer import Peer
from tools.benchmark.sides import PeerSide
from tools.benchmark.vision_models import calibrate_batch_norm, made_images
from tools.conversion.rewrites.cleaning import clean
from tools.conversion.saved_model import load_saved_model
from tools.conversion.signature import to_onnx
from tools.errors import UserError
from vision.config import load_config
from vision.export import export_saved_model
from vision.model import ARCHITECTURES

SIDE, NUM_CLASSES = 64, 10
SIZES = {"channel_ratio": 0.25, "hidden_dim": 32, "num_heads": 2, "num_layers": 3}
SHAPE = (SIDE, SIDE, 3)
THREADS = len(os.sched_getaffinity(0))


@pytest.fixture
def arguments(monkeypatch):
    """Those that all runs of the toy have in common."""
    monkeypatch.setitem(ARCHITECTURES, "toy", SIZES)
    return [
        "--architectures=toy",
        f"--num_classes={NUM_CLASSES}",
        f"--image_size={SIDE}",
        "--batch_sizes=1,2",
        "--loop=3",
        "--warmup_seconds=0",
        "--backends=openvino",
        "--calibration_samples=16",
        f"--threads={THREADS}",
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


def test_our_side_runs_alone_and_says_so(arguments, photos, tmp_path, capsys):
    report, work = tmp_path / "report.json", tmp_path / "work"
    flags = [*arguments, f"--data_dir={photos}", f"--work_dir={work}", "--eval_images=20"]
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
    assert len(manifests) == 3
    benchmark.main(flags)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("manifest.json")} == manifests


class OwnPeer:
    """What the PyTorch model would answer, computed by ours from what the peer is given."""

    def __init__(self, folder):
        self._folder = folder

    def ask(self, method, *arguments):
        return getattr(self, f"_{method}")(*arguments)

    def _versions(self):
        return {"torch": "0"}

    def _build(self, arguments, weights):
        ours = {"embed_dim": "hidden_dim", "depth": "num_layers"}
        ours["mlp_ratio"] = "feedforward_multiplier"
        sizes = {ours.get(name, name): value for name, value in arguments.items()}
        assert sizes.pop("qkv_bias")
        self._model = vision.build_model(sizes, sizes.pop("num_classes"))
        vision.load_pytorch_weights(self._model, weights)

    def _export(self, path, inputs, outputs):
        changes = {"preprocessing.image_size": SIDE, "model.num_classes": NUM_CLASSES}
        config, saved = load_config(None, changes), self._folder / "peer"
        export_saved_model(self._model, config, saved, layout="NCHW", outputs="heads")
        graph = to_onnx(load_saved_model(saved)["serving_default"], "serving_default")
        clean(graph)
        assert [x.name for x in graph.graph.input] == [inputs]
        assert set(outputs) < {x.name for x in graph.graph.output}
        Path(path).write_bytes(graph.SerializeToString())

    def take(self, images):
        self._images = images

    def time(self):
        return 1.0

    def logits(self):
        return np.stack([x.numpy() for x in self._model(self._images)])


def test_a_peer_is_given_the_same_model_and_runs_in_turn(arguments, tmp_path, capsys, monkeypatch):
    report = tmp_path / "report.json"
    monkeypatch.setattr(
        benchmark, "open_peer", lambda *_: contextlib.nullcontext(OwnPeer(tmp_path))
    )
    benchmark.main([*arguments, "--quantize_granularity=per_tensor", f"--json={report}"])
    found = json.loads(report.read_text())
    assert found["versions"]["torch"] == "0"
    (toy,) = found["architectures"]
    first, *others = toy["logit_errors"]
    assert first == "pytorch eager"
    assert others == [
        "tensorflow eager",
        "openvino fp32",
        "openvino int8_fp32 linear symm per_tensor",
        "openvino fp32 on PyTorch's ONNX",
        "tensorflow eager, 0.1% noise on images",
    ]
    for name in (others[0], others[1], others[3]):
        assert max(toy["logit_errors"][name].values()) < 1e-4
    for row in toy["results"]:
        ours, export = row["sides"][others[1]], row["sides"][others[3]]
        assert row["sides"][first]["median_ms"] == 1e3
        assert ours["speedup"] == pytest.approx(1e3 / ours["median_ms"])
        assert ours["against_export"] == export["median_ms"] / ours["median_ms"]
        assert "against_export" not in export
    assert "x pytorch eager" in capsys.readouterr().out


ANSWERING = """
import json, sys
import numpy as np
for line in sys.stdin:
    method, *arguments = json.loads(line)
    if method == "take":
        shape = np.load(arguments[0]).shape
    if method == "logits":
        np.save(arguments[0], np.zeros((2, shape[0], 10)))
    if method == "leave":
        sys.exit(2)
    print(json.dumps([0.5 if method == "time" else None]), flush=True)
"""


def test_a_peer_answers_through_a_pipe(tmp_path):
    process = Peer([sys.executable, "-c", ANSWERING])
    peer = PeerSide(process, tmp_path)
    peer.take(np.zeros((3, *SHAPE), np.float32))
    assert peer.time() == 0.5
    assert peer.logits().shape == (2, 3, 10)
    with pytest.raises(UserError, match="code 2"):
        peer.ask("leave")
    with pytest.raises(UserError, match="leave the peer out"):
        peer.time()
    process.close()


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
    with pytest.raises(UserError, match=expected):
        benchmark.main([f"--threads={THREADS}", flag])
