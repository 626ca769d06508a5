"""The runtime that `auto` chooses: the faster one, measured once and kept."""

import contextlib
import json
from types import SimpleNamespace

import numpy as np
import pytest

from tools.conversion import backends, choice
from tools.conversion.choice import choose_backend
from tools.conversion.converter import convert
from tools.conversion.loaded_model import LoadedModel
from tools.conversion.protocol import DEFAULT_EXECUTION, Execution
from tools.conversion.request import ConversionRequest
from tools.errors import UserError
from tools.files import one_at_a_time
from tools.inference.runner import load

REQUEST = ConversionRequest(batch=(1, 8))
SOUND = {"waveforms": np.ones((1, 20), "f"), "lengths": np.array([20], np.int32)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def runs(monkeypatch):
    """Gives runtimes their seconds by name; lists the shapes that each of them ran."""
    found, clock = {name: [] for name in choice.CANDIDATES}, [0.0]
    monkeypatch.setattr(choice, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slowed(**seconds):
        for name in choice.CANDIDATES:
            module = backends.get(name)

            def open_slowly(*arguments, name=name, opened=module.open):
                function = opened(*arguments)()

                def run(inputs):
                    found[name].append(inputs["waveforms"].shape)
                    clock[0] += seconds.get(name, 0.001)
                    return function(inputs)

                return lambda: run

            monkeypatch.setattr(module, "open", open_slowly)
        return found

    return slowed


def choose(native, batch_size=2, execution=DEFAULT_EXECUTION, request=REQUEST, **place):
    return choose_backend(LoadedModel(native), request, batch_size, execution, **place)


def decisions(cache):
    """The file that decisions are kept in."""
    (path,) = cache.rglob("*-backends.json")
    return path


@pytest.mark.parametrize(
    ("slow", "best"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino")]
)
def test_the_faster_runtime_is_chosen_once_and_said(native, runs, cache, capsys, slow, best):
    found = runs(**{slow: 0.02})
    assert choose(native) == best
    lines = capsys.readouterr().err
    assert lines.count(f"converted {native} for openvino and onnxruntime in ") == 1
    assert lines.count("0/1 [00:00<?, ?signature/s]") == 1, "one bar: they share the translation"
    said = lines.strip().splitlines()[-1]
    assert said.startswith(f"chose {best} for batches of 2: openvino ")
    # Two parts of 10 to 50 samples, one run before the clock starts and three on it.
    assert found["openvino"] == found["onnxruntime"] == [(2, 10)] * 4 + [(2, 12)] * 4
    assert choose(native) == best
    assert capsys.readouterr().err == "" and len(found[slow]) == 8
    (kept,) = json.loads(decisions(cache).read_text()).values()
    assert kept["backend"] == best and kept["milliseconds"] == pytest.approx({slow: 40, best: 2})


def test_another_batch_or_number_of_threads_is_measured_for_itself(native, runs):
    found = runs()
    for count, given in enumerate(
        [{}, {"batch_size": 8}, {"batch_size": 7}, {"execution": Execution(threads=1)}]
    ):
        choose(native, **given)
        assert len(found["openvino"]) == 8 * (1 + count - (count >= 2)), given


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": {}}', '{"a": {"backend": "x"}}'])
def test_a_damaged_decision_is_made_again(native, runs, cache, capsys, content):
    runs(openvino=0.02)
    choose(native)
    path = decisions(cache)
    path.write_text(content)
    assert choose(native) == "onnxruntime"
    assert f"{path} is damaged: measures again" in capsys.readouterr().err
    assert choose(native) == "onnxruntime"
    assert "damaged" not in capsys.readouterr().err


def test_a_shape_that_would_take_too_long_is_left_out(native, runs, monkeypatch):
    found = runs(openvino=0.02)
    monkeypatch.setattr(choice, "_BUDGET_SECONDS", 0.09)
    assert choose(native) == "onnxruntime"
    assert found["openvino"] == [(2, 10)] * 4


def test_nothing_is_measured_for_8_bits_or_with_one_runtime(native, runs, monkeypatch):
    found = runs()
    quantized = ConversionRequest(precision="int8_fp32")
    assert choose(native, request=quantized) == "openvino"
    assert choose(native, request=ConversionRequest(precision="bf16")) == "openvino"
    monkeypatch.setattr(backends, "is_installed", lambda name: name == "onnxruntime")
    assert choose(native) == "onnxruntime"
    assert not any(found.values())


def test_without_a_cache_to_write_a_process_measures_and_converts_once(
    native, runs, cache, capsys, tmp_path, monkeypatch
):
    found = runs(openvino=0.02)
    cache.write_text("no folder")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert choose(native) == "onnxruntime"
    said = capsys.readouterr().err
    assert said.count("until this program ends") == 1 and said.count(" in ") == 1
    assert choose(native) == "onnxruntime"
    manifest = convert(
        native, None, ConversionRequest("onnxruntime", batch=(1, 8)), may_be_temporary=True
    )
    assert manifest["reused"] and len(found["openvino"]) == 8
    assert capsys.readouterr().err == ""
    assert len(list((tmp_path / "temporary").iterdir())) == 1


def test_a_decision_that_cannot_be_written_holds_for_this_time(native, runs, capsys, monkeypatch):
    def full(*_):
        raise UserError.expected("room", "none", "Free space")

    runs(openvino=0.02)
    monkeypatch.setattr(choice, "write_text", full)
    assert choose(native) == "onnxruntime"
    assert "Free space. Measures again next time." in capsys.readouterr().err


def test_a_folder_of_the_user_keeps_its_runtime_for_every_batch_size(native, runs, tmp_path):
    found, place = runs(openvino=0.02), tmp_path / "own"
    convert(native, place, ConversionRequest("openvino", batch=(1, 8)))
    assert choose(native, converted_dir=place) == "openvino"
    assert choose(native, batch_size=8, converted_dir=place) == "openvino"
    assert not any(found.values())
    # Another conversion has to be made there: the faster runtime may as well be another.
    wider = ConversionRequest(batch=(1, 9))
    assert choose(native, request=wider, converted_dir=place) == "onnxruntime"


@pytest.mark.parametrize("manifest", ["{}", '{"request": 3}', '{"request": {"backend": "vax"}}'])
def test_a_folder_of_the_user_without_a_conversion_is_measured_for(
    native, runs, tmp_path, manifest
):
    found = runs(openvino=0.02)
    (tmp_path / "manifest.json").write_text(manifest)
    assert choose(native, converted_dir=tmp_path) == "onnxruntime"
    assert found["openvino"]


def test_what_was_measured_is_copied_into_a_folder_of_the_user(native, runs, tmp_path, monkeypatch):
    runs(openvino=0.02)
    loaded, place = LoadedModel(native), tmp_path / "own"
    choose_backend(loaded, REQUEST, 2, DEFAULT_EXECUTION, converted_dir=place)
    for name in choice.CANDIDATES:
        monkeypatch.delattr(backends.get(name), "save")
    request = ConversionRequest("onnxruntime", batch=(1, 8))
    manifest = convert(native, place, request, loaded=loaded)
    assert manifest["copied"] and not manifest["reused"] and manifest["seconds"] > 0
    assert load(place).run(SOUND)["doubled"].tolist() == [40]
    assert convert(native, place, request)["reused"]


def test_two_processes_measure_one_after_the_other_and_keep_both_decisions(
    native, runs, cache, monkeypatch
):
    found = runs()
    choose(native, batch_size=8)
    path = decisions(cache)
    before = path.read_text()
    path.write_text("{}")
    entered = one_at_a_time(path)

    @contextlib.contextmanager
    def after_another(place):
        """Waits for the lock while another process decides for 8 rows."""
        with entered if place == path else one_at_a_time(place):
            if place == path:
                path.write_text(before)
            yield

    monkeypatch.setattr(choice, "one_at_a_time", after_another)
    choose(native, batch_size=2)
    assert len(json.loads(path.read_text())) == 2
    assert len(found["openvino"]) == 16
    path.write_text("{}")
    monkeypatch.setattr(choice, "one_at_a_time", after_another)
    entered = one_at_a_time(path)
    choose(native, batch_size=8)
    assert len(found["openvino"]) == 16, "the other process has decided the same"


def test_a_damaged_conversion_of_the_cache_is_made_again(native, runs, cache, capsys):
    runs()
    choose(native)
    for path in cache.rglob("*.onnx"):
        path.write_bytes(b"half")
    assert choose(native, batch_size=8) in choice.CANDIDATES
    assert "Converts again." in capsys.readouterr().err


def test_a_runtime_that_fails_is_left_out_and_named(native, runs, monkeypatch, capsys):
    def fails(*_):
        raise RuntimeError("no room for this graph")

    runs()
    monkeypatch.setattr(backends.get("onnxruntime"), "open", fails)
    assert choose(native) == "openvino"
    assert "onnxruntime is not measured: no room for this graph" in capsys.readouterr().err


def test_one_fixed_shape_is_measured_once(native, runs):
    found = runs()
    ranges = {"waveforms": ((2, 2), (20, 20))}
    choose(native, request=ConversionRequest(batch=(2, 2), dim_range=ranges))
    assert found["openvino"] == [(2, 20)] * 4


def test_a_shape_beyond_the_time_ends_the_measurement(native, runs, capsys):
    found = runs(openvino=5.0, onnxruntime=5.0)
    assert choose(native) == "openvino"
    assert len(found["openvino"]) == 1, "8 s are over after one run of both"
    assert "chose" not in capsys.readouterr().err
