"""The runtime that `auto` chooses: the faster one, measured once and kept."""

import json
from types import SimpleNamespace

import pytest

from tools.conversion import backends, choice
from tools.conversion.choice import choose_backend
from tools.conversion.converter import decision_path
from tools.conversion.protocol import DEFAULT_EXECUTION, Execution
from tools.conversion.request import ConversionRequest

REQUEST = ConversionRequest(batch=(1, 8))


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
                function = opened(*arguments)

                def run(inputs):
                    found[name].append(inputs["waveforms"].shape)
                    clock[0] += seconds.get(name, 0.001)
                    return function(inputs)

                return run

            monkeypatch.setattr(module, "open", open_slowly)
        return found

    return slowed


def choose(native, batch_size=2, execution=DEFAULT_EXECUTION, request=REQUEST):
    return choose_backend(native, request, batch_size, execution)


@pytest.mark.parametrize(
    ("slow", "best"), [("openvino", "onnxruntime"), ("onnxruntime", "openvino")]
)
def test_the_faster_runtime_is_chosen_once_and_said(native, runs, capsys, slow, best):
    found = runs(**{slow: 0.02})
    assert choose(native) == best
    lines = capsys.readouterr().err
    assert all(f"converted {native} for {name} in " in lines for name in choice.CANDIDATES)
    said = lines.strip().splitlines()[-1]
    assert said.startswith(f"chose {best} for batches of 2: openvino ")
    # Two parts of 10 to 50 samples, one run before the clock starts and three on it.
    assert found["openvino"] == found["onnxruntime"] == [(2, 10)] * 4 + [(2, 12)] * 4
    assert choose(native) == best
    assert capsys.readouterr().err == "" and len(found[slow]) == 8
    (kept,) = json.loads(decision_path(native).read_text()).values()
    assert kept["backend"] == best and kept["milliseconds"] == pytest.approx({slow: 40, best: 2})


def test_another_batch_or_number_of_threads_is_measured_for_itself(native, runs):
    found = runs()
    for count, given in enumerate(
        [{}, {"batch_size": 8}, {"batch_size": 7}, {"execution": Execution(threads=1)}]
    ):
        choose(native, **given)
        assert len(found["openvino"]) == 8 * (1 + count - (count >= 2)), given


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": {}}', '{"a": {"backend": "x"}}'])
def test_a_damaged_decision_is_made_again(native, runs, capsys, content):
    runs(openvino=0.02)
    path = decision_path(native)
    path.parent.mkdir(parents=True)
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


def test_a_cache_that_cannot_be_written_is_measured_each_time(native, runs, cache, capsys):
    found = runs()
    cache.write_text("no folder")
    for count in (1, 2):
        choose(native)
        assert "Measures again next time." in capsys.readouterr().err
        assert len(found["openvino"]) == 8 * count


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
