"""The timing of models on many lengths."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.errors import refused
from tools.benchmark import lengths
from tools.benchmark.lengths import Inputs, compare, lengths_of, main, memory_growth, time_pass
from tools.conversion.protocol import TensorSpec
from tools.inference.options import RunnerOptions


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_lengths_are_different_spread_and_in_random_order():
    found = lengths_of(50, 100, 1000)
    assert sorted(found) == sorted(set(found)) and len(found) == 50
    assert (min(found), max(found)) == (100, 1000)
    assert found != sorted(found) and found == lengths_of(50, 100, 1000)
    assert np.diff(sorted(found)).max() <= 20


def test_sides_are_timed_in_turn_and_their_shapes_counted(native, tmp_path, capsys):
    report, model = tmp_path / "report.json", shutil.copytree(native, tmp_path / "speech")
    pipeline = json.loads((model / "assets" / "pipeline.json").read_text())
    pipeline["sample_rate_hz"] = 1  # a model of sounds of 10 to 50 samples
    (model / "assets" / "pipeline.json").write_text(json.dumps(pipeline))
    arguments = ["--batch_sizes=2", "--lengths=40", "--rounds=2", "--low_seconds=10"]
    arguments += ["--high_seconds=49", "--sides=eager,openvino", f"--json={report}"]
    main([str(model), *arguments])
    found = json.loads(report.read_text())
    rows = found["models"][str(model)]["batch 2"]
    assert rows["eager"]["shapes"] is None and rows["eager"]["against_eager"] == 1.0
    assert rows["openvino"]["shapes"]["prepared"] == 40, "this model must not be padded"
    assert rows["openvino"]["against_eager"] == pytest.approx(
        rows["openvino"]["rows_per_second"] / rows["eager"]["rows_per_second"]
    )
    assert {"processor", "machine", "versions", "seed"} <= found.keys()
    printed = capsys.readouterr().out
    assert f"{model}, batch 2, openvino (openvino): " in printed and "40 shapes in" in printed


def test_the_median_of_the_rounds_counts(monkeypatch):
    speeds = iter([1.0, 10.0, 3.0, 40.0, 2.0, 50.0])
    asked = []

    def time_pass(model, options, lengths, **how):
        assert how == {"warm_up": 0}
        asked.append(options.run_eagerly)
        return next(speeds), {"backend": "toy", "shapes": None}

    monkeypatch.setattr(lengths, "time_pass", time_pass)
    sides = {"eager": RunnerOptions(run_eagerly=True), "auto": RunnerOptions()}
    found = compare("model", sides, [1], 3, warm_up=0)
    assert asked == [True, False] * 3
    assert (found["auto"]["rows_per_second"], found["auto"]["against_eager"]) == (40.0, 20.0)


@pytest.mark.parametrize(("warm_up", "speed"), [(0, 2 * 4 / 10), (1, 2 * 3 / 9), (3, 2 / 4)])
def test_batches_behind_the_warm_up_are_timed_and_the_first_answer_for_itself(
    native, monkeypatch, warm_up, speed
):
    now = [0.0]

    class Slow(Model):
        """Takes one second for the first batch, two for the second, and so on."""

        runner = SimpleNamespace(backend="toy")
        calls = 0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def run(self, inputs):
            self.calls += 1
            now[0] += self.calls

    slow = Slow(("images", "uint8", (None, 4)))
    monkeypatch.setattr(lengths, "open_session", lambda *_: slow)
    options = RunnerOptions(batch_size=2)
    how = {"warm_up": warm_up, "clock": lambda: now[0]}
    found, said = time_pass("model", options, [1] * 4, **how)
    assert found == pytest.approx(speed) and said["first_answer_seconds"] == 1.0


@pytest.mark.parametrize(("flag", "clock"), [("--cpu_time", "process_time"), ("", "perf_counter")])
def test_a_side_has_its_precision_and_the_clock_is_chosen(native, monkeypatch, flag, clock):
    asked = []

    def note(model, sides, given, rounds, **how):
        asked.append(({name: side.quant_precision for name, side in sides.items()}, how["clock"]))
        return {}

    monkeypatch.setattr(lengths, "compare", note)
    sides = "--sides=eager,openvino,openvino:int8_fp32"
    main([str(native), sides, "--batch_sizes=1", *filter(None, [flag])])
    precisions = {"eager": None, "openvino": None, "openvino:int8_fp32": "int8_fp32"}
    assert asked == [(precisions, getattr(lengths.time, clock))]


def test_memory_is_taken_after_100_lengths_and_at_the_end(native, monkeypatch):
    sizes, run = iter([5.0, 7.0]), []
    monkeypatch.setattr(lengths, "_resident_mib", lambda: next(sizes))

    class Here:
        """Runs in this process what the program runs in another one."""

        def __init__(self, count):
            assert count == 1

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def apply(self, function, arguments):
            run.append(arguments)
            return function(*arguments)

    monkeypatch.setattr(
        lengths.multiprocessing, "get_context", lambda kind: type("C", (), {"Pool": Here})
    )
    options = RunnerOptions(backend="onnxruntime")
    given = lengths_of(40, 10, 49) * 3
    assert memory_growth(str(native), options, given) == {"after_100": 5.0, "after_120": 7.0}
    assert run == [(str(native), options, given)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "models to time"),
        (["m", "--lengths=30"], "--lengths >= 31"),
        (["m", "--rounds=0"], "--rounds >= 1"),
        (["m", "--warmup_count=-1"], "--warmup_count >= 0"),
        (["m", "--warmup_count=5", "--lengths=5"], "--lengths >= 6"),
        (["m", "--memory_lengths=100"], "--memory_lengths above 100"),
        (["m", "--batch_sizes=0"], "--batch_sizes"),
        (["nowhere"], "SavedModel directory"),
        (["conformer/pretrained/digits", "--high_seconds=1.001"], "200 different lengths"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message):
    with refused(message):
        main(arguments)


class Model:
    """A session of a speech model, or of images."""

    def __init__(self, *specs):
        self.signatures = {"serving_default": tuple(TensorSpec(*spec) for spec in specs)}


def test_rows_are_cut_from_a_recording_each_from_another_place():
    sound = np.arange(1000, dtype="float32")
    model = Model(("waveforms", "float32", (None, None)), ("lengths", "int32", (None,)))
    found = Inputs(model, 3, 1500, sound).batch(1200)
    assert found["lengths"].tolist() == [1200] * 3
    assert found["waveforms"].shape == (3, 1200)
    assert len(set(found["waveforms"][:, 0])) == 3
    assert set(np.diff(found["waveforms"]).ravel()) == {1.0, -999.0}, "its start follows its end"


def test_images_have_one_size():
    found = Inputs(Model(("images", "uint8", (None, 8, 8, 3))), 2, 1).batch(1)
    assert found["images"].shape == (2, 8, 8, 3) and found["images"].dtype == np.uint8
