"""The benchmark of wav2vec 2.0 on a toy architecture, alone and beside a peer of our own."""

import contextlib
import importlib.util
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import wav2vec2
from tests.support.arguments import joined
from tests.support.conversions import shared_translations
from tests.support.errors import refused
from tests.support.peers import StubPeer, known_times
from tools.benchmark import wav2vec2 as benchmark
from tools.benchmark import wav2vec2_models, wav2vec2_sides
from tools.benchmark.sides import EAGER, PEER, LocalSide, export_name
from tools.benchmark.wav2vec2_models import made_sound, normalized, read_sounds
from tools.conversion.rewrites.cleaning import clean
from tools.conversion.signature import to_onnx
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
NUM_SAMPLES = 6400  # in place of those of the published table


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The folder of models, each of which is made by the first run that wants it."""
    with shared_translations():
        yield tmp_path_factory.mktemp("work")


@pytest.fixture
def arguments(monkeypatch, work):
    """Those that all runs of the toy have in common."""
    monkeypatch.setitem(ARCHITECTURES, "toy", TOY)
    monkeypatch.setattr(benchmark, "MIXED_COUNT", 12)
    monkeypatch.setattr(benchmark, "MIXED_SECONDS", (0.1, 0.4))
    for module in (benchmark, wav2vec2_models, wav2vec2_sides):
        monkeypatch.setattr(module, "NUM_SAMPLES", NUM_SAMPLES)
    return [
        "--model=toy",
        "--batch_sizes=3",
        "--loop=2",
        "--mixed_loop=1",
        "--warmup_seconds=0",
        "--backends=openvino",
        "--calibration_samples=4",
        f"--threads={THREADS}",
        f"--work_dir={work}",
    ]


def test_our_side_runs_alone_and_says_so(arguments, work, tmp_path, capsys, monkeypatch):
    find = importlib.util.find_spec

    def find_others(name, *rest):
        return None if name == "torch" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    report = tmp_path / "report.json"
    benchmark.main([*arguments, "--mixed=jit", f"--json={report}"])
    printed = capsys.readouterr()
    assert "no torch" in printed.err
    assert "our side runs alone" in printed.err
    found = json.loads(report.read_text())
    assert found["threads"] == THREADS
    assert {"tensorflow", "openvino"} <= found["versions"].keys()
    names = ["tensorflow eager", "openvino fp32", f"{INT8} per_tensor", f"{INT8} per_axis"]
    (row,) = found["results"]
    assert row["batch"] == 3
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
    places = {path.parent.name for path in manifests}
    assert {name.replace(" ", "-") for name in names[1:]} <= places
    benchmark.main([*arguments, "--mixed=none"])
    assert {path: path.stat().st_mtime_ns for path in work.rglob("manifest.json")} == manifests


def test_the_table_has_fixed_shapes_beside_ranges(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        benchmark, "time_in_turn", known_times({"fixed shape": 200.0, "dim range": 250.0})
    )
    report = tmp_path / "report.json"
    benchmark.main(joined(arguments, ["--table", "--batch_sizes=8,3", f"--json={report}"]))
    rows = json.loads(report.read_text())["table"]
    assert [row["batch"] for row in rows] == [8, 3]
    printed = capsys.readouterr().out
    assert "| model | batch size | fixed shape | dim range | range / fixed |" in printed
    for row in rows:
        assert list(row["sides"]) == ["fixed shape", "dim range"]
    assert "| toy, openvino fp32 | 8 | 40.00 | 32.00 | 0.80 |\n" in printed
    assert "| toy, openvino fp32 | 3 | 15.00 | 12.00 | 0.80 |\n" in printed


class OwnPeer(StubPeer):
    """What the PyTorch model would answer, computed by ours from what the peer is given."""

    def build(self, folder):
        self._model = wav2vec2.from_pretrained(folder, mask_padding=False)

    def export(self, path, inputs, outputs):
        spec = tf.TensorSpec(self.inputs.shape, tf.float32, inputs)
        function = tf.function(lambda x: {outputs: self._model(x)}, input_signature=[spec])
        graph = to_onnx(function.get_concrete_function(), "peer")
        clean(graph)
        Path(path).write_bytes(graph.SerializeToString())

    def logits(self):
        return np.asarray(self._model(self.inputs))


def test_a_peer_is_given_the_same_model_and_runs_in_turn(arguments, tmp_path, capsys, monkeypatch):
    report, ours = tmp_path / "report.json", ["tensorflow eager", "openvino fp32"]
    medians = {PEER: 900.0, ours[0]: 1200.0, ours[1]: 300.0, export_name("openvino"): 450.0}
    monkeypatch.setattr(benchmark, "time_in_turn", known_times(medians))
    monkeypatch.setattr(benchmark, "open_peer", lambda *_: contextlib.nullcontext(OwnPeer()))
    more = ["--precisions=fp32", "--mixed=none", f"--json={report}"]
    benchmark.main(joined(arguments, more))
    found = json.loads(report.read_text())
    assert found["versions"]["transformers"] == "0"
    assert "mixed" not in found
    (row,) = found["results"]
    names = [PEER, *ours, export_name("openvino")]
    assert list(row["logit_errors"]) == [*names, "tensorflow eager, 0.1% noise on sounds"]
    assert max(row["logit_errors"][name] for name in names) < 1e-4
    assert list(row["sides"]) == names
    speedups = [row["sides"][name].get("speedup") for name in names]
    assert speedups == [None, 0.75, 3.0, 2.0]
    against = {name: x["against_export"] for name, x in row["sides"].items() if len(x) > 4}
    assert against == {"openvino fp32": 1.5}
    printed = capsys.readouterr().out
    assert re.search(r"openvino fp32 +300.0 +600.0 +10.0 +3.00 +1.50\n", printed)


def test_errors_are_over_every_sound_once_whatever_the_batch(rng):
    sounds = rng.standard_normal((5, 40)).astype(np.float32)

    def side(wrong=0):
        """Answers with the sounds, of which those like the first one are wrong."""

        def read(x):
            return x + wrong * (x[:, :1] == sounds[0, 0])

        return LocalSide(lambda x: x, lambda x: x, read)

    expected = np.sqrt(40) / np.linalg.norm(sounds)
    for batch in (1, 2, 5, 8):
        found = benchmark.logit_errors({EAGER: side(), "b": side(1)}, sounds, batch)
        assert found["b"] == pytest.approx(expected)
        assert found[EAGER] == 0.0


def test_frames_of_padding_are_left_out():
    logits = np.arange(24.0).reshape(2, 4, 3)
    outputs = {"logits": logits, "logit_lengths": np.array([3, 3])}
    np.testing.assert_array_equal(wav2vec2_sides.valid_logits(outputs), logits[:, :3])
    fed = wav2vec2_sides.feed(np.zeros((2, 7), np.float32))
    assert fed["lengths"].tolist() == [7, 7]


def test_mixed_lengths_are_timed_in_both_orders(monkeypatch):
    monkeypatch.setattr(benchmark, "MIXED_COUNT", 20)
    monkeypatch.setattr(benchmark, "MIXED_SECONDS", (0.1, 0.5))
    monkeypatch.setattr(benchmark, "time_in_turn", known_times({"by length": 2, "file order": 3}))
    seen = []
    runner = SimpleNamespace(run=lambda batch: seen.append(batch))
    found = benchmark.time_mixed(runner, 1, 1000)
    assert {name: row["median_ms"] for name, row in found.items()} == {
        "by length": 2,
        "file order": 3,
    }
    halves = {"by length": seen[:3], "file order": seen[3:]}
    for name, batches in halves.items():
        lengths = [n for batch in batches for n in batch["lengths"]]
        assert len(lengths) == 20
        assert 100 <= min(lengths) <= max(lengths) <= 500
        assert (lengths == sorted(lengths)) == (name == "by length")
        size = sum(batch["waveforms"].size for batch in batches)
        assert found[name]["padding"] == pytest.approx(1 - sum(lengths) / size)


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
    with refused("more than 8 sounds"):
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
    with refused(expected):
        benchmark.main(joined([f"--threads={THREADS}"], [flag]))


def test_normalized_sounds_have_no_mean_and_unit_variance(rng):
    sound = normalized(3.0 * rng.standard_normal(5000) + 7.0)
    assert sound.dtype == np.float32
    assert sound.mean() == pytest.approx(0.0, abs=1e-5)
    assert sound.std() == pytest.approx(1.0, abs=1e-4)
