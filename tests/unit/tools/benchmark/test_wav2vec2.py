"""The benchmark of wav2vec 2.0 on a toy architecture, alone and beside a peer of our own."""

import contextlib
import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import wav2vec2
from tools.benchmark import wav2vec2 as benchmark
from tools.benchmark.peer import Peer
from tools.benchmark.sides import PeerSide
from tools.benchmark.wav2vec2_models import made_sound, normalized, read_sounds
from tools.conversion.rewrites.cleaning import clean
from tools.conversion.signature import to_onnx
from tools.errors import UserError
from wav2vec2.config import ARCHITECTURES, ModelConfig

TOY = ModelConfig(
    feature_filters=(16,) * 7,
    hidden_dim=32,
    num_layers=1,
    num_heads=4,
    feedforward_dim=64,
    position_kernel_size=8,
    position_groups=4,
)
THREADS = len(os.sched_getaffinity(0))
INT8 = "openvino int8_fp32 linear symm"


@pytest.fixture
def arguments(monkeypatch):
    """Those that all runs of the toy have in common."""
    monkeypatch.setitem(ARCHITECTURES, "toy", TOY)
    monkeypatch.setattr(benchmark, "MIXED_COUNT", 12)
    monkeypatch.setattr(benchmark, "MIXED_SECONDS", (1, 4))
    return [
        "--model=toy",
        "--batch_sizes=1,3",
        "--loop=2",
        "--mixed_loop=1",
        "--warmup_seconds=0",
        "--backends=openvino",
        "--calibration_samples=4",
        f"--threads={THREADS}",
    ]


def test_our_side_runs_alone_and_says_so(arguments, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec

    def find_others(name, *rest):
        return None if name == "torch" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    report, work = tmp_path / "report.json", tmp_path / "work"
    flags = [*arguments, "--batch_sizes=2", "--mixed=jit", f"--work_dir={work}", f"--json={report}"]
    benchmark.main(flags)
    printed = capsys.readouterr()
    assert "no torch" in printed.err
    assert "our side runs alone" in printed.err
    found = json.loads(report.read_text())
    assert found["threads"] == THREADS
    assert {"tensorflow", "openvino"} <= found["versions"].keys()
    names = ["tensorflow eager", "openvino fp32", f"{INT8} per_tensor", f"{INT8} per_axis"]
    (row,) = found["results"]
    assert row["batch"] == 2
    assert list(row["sides"]) == names
    for side in row["sides"].values():
        assert side["fps"] == pytest.approx(1e3 * row["batch"] / side["median_ms"])
        assert not {"speedup", "against_export"} & side.keys()
    errors = row["logit_errors"]
    assert errors["openvino fp32"] < 1e-4 < errors[names[3]] < 0.5
    assert 1e-5 < errors["tensorflow eager, 0.1% noise on sounds"] < 0.1
    mixed = found["mixed"]
    assert mixed["runner"] == "openvino fp32"
    times = mixed["times"]
    assert times["by length"]["padding"] < times["file order"]["padding"] < 1
    ratio = times["file order"]["median_ms"] / times["by length"]["median_ms"]
    assert mixed["gain"] == pytest.approx(ratio)

    manifests = {path: path.stat().st_mtime_ns for path in work.rglob("manifest.json")}
    assert len(manifests) == 3 + 1
    benchmark.main(flags)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("manifest.json")} == manifests


def test_the_table_has_fixed_shapes_beside_ranges(arguments, tmp_path, capsys):
    report = tmp_path / "report.json"
    benchmark.main([*arguments, "--table", f"--json={report}"])
    rows = json.loads(report.read_text())["table"]
    assert [row["batch"] for row in rows] == [1, 3]
    printed = capsys.readouterr().out
    assert "| model | batch size | fixed shape | dim range |" in printed
    for row in rows:
        sides = row["sides"]
        assert list(sides) == ["fixed shape", "dim range"]
        cells = " | ".join(f"{side['fps']:.2f}" for side in sides.values())
        assert f"| toy, openvino fp32 | {row['batch']} | {cells} | " in printed


class OwnPeer:
    """What the PyTorch model would answer, computed by ours from what the peer is given."""

    def ask(self, method, *arguments):
        return getattr(self, f"_{method}")(*arguments)

    def _versions(self):
        return {"torch": "0", "transformers": "0"}

    def _build(self, folder):
        self._model = wav2vec2.from_pretrained(folder, mask_padding=False)

    def _export(self, path, inputs, outputs):
        spec = tf.TensorSpec(self._waveforms.shape, tf.float32, inputs)
        function = tf.function(lambda x: {outputs: self._model(x)}, input_signature=[spec])
        graph = to_onnx(function.get_concrete_function(), "peer")
        clean(graph)
        Path(path).write_bytes(graph.SerializeToString())

    def take(self, waveforms):
        self._waveforms = waveforms

    def time(self):
        return 1.0

    def logits(self):
        return np.asarray(self._model(self._waveforms))


def test_a_peer_is_given_the_same_model_and_runs_in_turn(arguments, tmp_path, capsys, monkeypatch):
    report = tmp_path / "report.json"
    monkeypatch.setattr(benchmark, "open_peer", lambda *_: contextlib.nullcontext(OwnPeer()))
    flags = [*arguments, "--precisions=fp32", "--mixed=none", f"--json={report}"]
    benchmark.main(flags)
    found = json.loads(report.read_text())
    assert found["versions"]["transformers"] == "0"
    assert "mixed" not in found
    first, *others = found["results"][0]["logit_errors"]
    assert first == "pytorch eager"
    assert others == [
        "tensorflow eager",
        "openvino fp32",
        "openvino fp32 on PyTorch's ONNX",
        "tensorflow eager, 0.1% noise on sounds",
    ]
    for row in found["results"]:
        assert max(row["logit_errors"][name] for name in others[:3]) < 1e-4
        ours, export = row["sides"][others[1]], row["sides"][others[2]]
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
        waveforms = np.load(arguments[0])
    if method == "logits":
        np.save(arguments[0], 2.0 * waveforms)
    if method == "leave":
        sys.exit(2)
    print(json.dumps([0.5 if method == "time" else None]), flush=True)
"""


def test_a_peer_answers_through_a_pipe(tmp_path, rng):
    process = Peer([sys.executable, "-c", ANSWERING])
    peer = PeerSide(process, tmp_path)
    waveforms = rng.standard_normal((3, 500)).astype(np.float32)
    peer.take(waveforms)
    assert peer.time() == 0.5
    np.testing.assert_array_equal(peer.logits(), 2.0 * waveforms)
    with pytest.raises(UserError, match="code 2"):
        peer.ask("leave")
    process.close()


def test_mixed_batches_hold_every_sound_once_and_silence_behind(rng, monkeypatch):
    monkeypatch.setattr(benchmark, "MIXED_BATCH", 3)
    sounds = [rng.standard_normal(n).astype(np.float32) for n in (9, 4, 8, 3, 7)]
    for by_length in (False, True):
        batches = benchmark.mixed_batches(sounds, by_length)
        assert [len(x["lengths"]) for x in batches] == [3, 2]
        found = []
        for batch in batches:
            assert batch["waveforms"].shape[1] == batch["lengths"].max()
            for row, length in zip(batch["waveforms"], batch["lengths"], strict=True):
                found.append(row[:length])
                assert not row[length:].any()
        expected = sorted(sounds, key=len) if by_length else sounds
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_made_up_sounds_have_the_tilt_and_the_syllables_of_speech(rng):
    sound = made_sound(rng, 64000)
    assert sound.mean() == pytest.approx(0.0, abs=1e-5)
    assert sound.std() == pytest.approx(1.0, abs=1e-3)
    power = np.abs(np.fft.rfft(sound)) ** 2
    assert power[: len(power) // 4].mean() > 5 * power[len(power) // 2 :].mean()
    loudness = sound.reshape(-1, 800).std(axis=1)
    assert loudness.max() > 3 * loudness.min()


def test_sounds_of_a_folder_are_repeated_or_cut(tmp_path, rng):
    lengths = [20000, 120000] * 5
    for number, length in enumerate(lengths):
        values = rng.uniform(-0.5, 0.5, length)
        soundfile.write(tmp_path / f"{number}.flac", values, 16000)
    pipeline = {"sample_rate_hz": 16000, "min_seconds": 0.025, "max_seconds": 35.0, "blank": 0}
    pipeline |= {"hop_samples": 320, "receptive_field_samples": 400}
    pipeline["vocabulary"] = {"tokens": ["<pad>", "|"], "surfaces": ["", " "], "delimiter": 1}
    sounds = read_sounds(str(tmp_path), pipeline, 10)
    assert sounds.shape == (10, 100000)
    np.testing.assert_allclose(sounds[0, :20000], sounds[0, 20000:40000], atol=1e-6)
    whole, _ = soundfile.read(tmp_path / "1.flac")
    np.testing.assert_allclose(sounds[1], normalized(whole[:100000]), atol=1e-4)
    with pytest.raises(UserError, match="more than 8 sounds"):
        read_sounds(str(tmp_path), pipeline, 8)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--batch_sizes=1,x", "--batch_sizes"),
        ("--loop=0", "--loop"),
        ("--mixed_loop=0", "--mixed_loop"),
        ("--mixed=some", "none"),
        ("--calibration_samples=0", "--calibration_samples"),
        ("--backends=paper", "a backend"),
        ("--precisions=fp32,int4", "Received: int4"),
        ("--threads=100000", "--threads"),
        ("--model=huge", "large-lv60"),
        ("more", "See --help"),
    ],
)
def test_bad_flags_are_refused(flag, expected):
    with pytest.raises(UserError, match=expected):
        benchmark.main([f"--threads={THREADS}", flag])
