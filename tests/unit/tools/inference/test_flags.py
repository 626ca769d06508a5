"""The flags that inference programs share: what they ask a converter, a runner and the machine."""

import dataclasses
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.errors import refused
from tools.config.command_line import CommandLine
from tools.config.making_options import from_flags, from_keywords
from tools.conversion.protocol import Execution
from tools.conversion.request import OPT_CONFIG, ConversionRequest, Quantization
from tools.inference import flags, opening
from tools.inference.options import RunnerOptions

PIPELINE = {
    "family": "conformer",
    "sample_rate_hz": 8000,
    "convert": {
        "listen": {"dim_range": {"waveforms": [[400, 80000]]}},
        "predict": {"dim_range": {}},
        "join": {"dim_range": {"encoded": [[1, 1]], "predicted": [[1, 3]]}},
    },
}


def parsed(*arguments):
    command_line = CommandLine("infer.py", "Recognizes.")
    flags.add_inference_flags(command_line)
    values, rest = command_line.parse(arguments)
    assert not rest
    return values


def options(*arguments):
    return from_flags(RunnerOptions, parsed(*arguments))


def read_examples(*_):
    """Stands in for the family's reader where nothing is read."""
    raise AssertionError


@pytest.fixture
def native(tmp_path):
    """What tells of itself like an export, without a graph."""
    (tmp_path / "native" / "assets").mkdir(parents=True)
    (tmp_path / "native" / "saved_model.pb").touch()
    (tmp_path / "native" / "assets" / "pipeline.json").write_text(json.dumps(PIPELINE))
    return tmp_path / "native"


@pytest.fixture
def converted(native, monkeypatch):
    """Gives what the converter is called with for flags."""

    def run(*arguments):
        calls = []
        monkeypatch.setattr(opening, "convert", lambda *given, **_: calls.append(given) or {})
        monkeypatch.setattr(opening, "choose_backend", lambda *_, **__: "measured")
        assert opening.converted(native, options(*arguments), read_examples) == {}
        ((source, target, request, calibration),) = calls
        assert source == native
        return SimpleNamespace(target=target, request=request, calibration=calibration)

    return run


def test_without_flags_the_converter_gets_its_defaults(converted):
    asked = converted()
    assert asked.request == ConversionRequest("measured", batch=(1, 64))
    assert (asked.target, asked.calibration) == (None, None)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("backend=onnxruntime", {"backend": "onnxruntime"}),
        ("quant_precision=int8_fp16", {"precision": "int8_fp16"}),
        ("batch_size=5", {"batch": (1, 64)}),
        ("batch_size=65", {"batch": (1, 65)}),
        ("opt_config=none", {"opt_config": ()}),
        (f"opt_config= {OPT_CONFIG[1]}", {"opt_config": (OPT_CONFIG[1],)}),
        (f"opt_config={OPT_CONFIG[1]}, {OPT_CONFIG[0]}", {"opt_config": OPT_CONFIG[::-1]}),
        ("minimum_segment_size=1", {"minimum_segment_size": 1}),
        ("minimum_segment_size=7", {"minimum_segment_size": 7}),
    ],
)
def test_a_flag_of_the_conversion_reaches_the_request(converted, flag, expected):
    defaults = {"backend": "measured", "batch": (1, 64)}
    assert converted(f"--{flag}").request == ConversionRequest(**{**defaults, **expected})


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("quantize_algo=eqnm", {"algo": "eqnm"}),
        ("quantize_type=asym", {"type": "asym"}),
        ("quantize_granularity=per_axis", {"granularity": "per_axis"}),
        ("keep_in_float=block_0/a, -head ,", {"keep_in_float": ("block_0/a", "-head")}),
        ("max_accuracy_drop=0", {"max_accuracy_drop": 0.0}),
        ("max_accuracy_drop=0.015", {"max_accuracy_drop": 0.015}),
        ("max_accuracy_drop=1", {"max_accuracy_drop": 1.0}),
    ],
)
def test_a_flag_of_the_quantization_reaches_the_request(converted, flag, expected):
    request = converted(f"--{flag}").request
    expected = Quantization(**expected)
    assert request == ConversionRequest("measured", batch=(1, 64), quantization=expected)


def test_the_place_of_the_converted_model_is_handed_on(converted, tmp_path):
    assert converted(f"--converted_savedmodel_dir={tmp_path}/new").target == str(tmp_path / "new")


@pytest.mark.parametrize(
    ("arguments", "samples"),
    [
        ([], 80000),
        (["--max_seconds=2.0003"], 16002),
        (["--max_seconds=0.001"], 400),  # never below the model's range
        (["--max_seconds=60"], 80000),  # nor above
    ],
)
def test_without_a_range_every_tensor_has_one_shape(converted, arguments, samples):
    request = converted("--enable_dim_range=0", "--batch_size=3", *arguments).request
    assert request.batch == (3, 3)
    assert request.dim_range == {
        "waveforms": ((3, 3), (samples, samples)),
        "encoded": ((3, 3), (1, 1)),
        "predicted": ((3, 3), (3, 3)),
    }


@pytest.mark.parametrize("batch_size", [1, 5])
def test_ranges_hold_whatever_the_batch_size_is(converted, batch_size):
    size = f"--batch_size={batch_size}"
    ranges = {"waveforms": ((1, 8), (400, 800))}
    request = converted("--dim_range=waveforms=1:8,400:800", size).request
    assert request == ConversionRequest("measured", batch=(1, 8), dim_range=ranges)
    request = converted("--dim_range=a=2;b=2,1:3", size).request
    ranges = {"a": ((2, 2),), "b": ((2, 2), (1, 3))}
    assert request == ConversionRequest("measured", batch=(2, 2), dim_range=ranges)


def test_max_seconds_leaves_a_range_as_it_is(converted):
    assert converted("--max_seconds=2").request == ConversionRequest("measured", batch=(1, 64))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--enable_dim_range=0", "--dim_range=waveforms=1,400"], "--enable_dim_range=0"),
        (["--dim_range=waveforms=4:1,400"], "--dim_range"),
        (["--batch_size=0"], "--batch_size >= 1"),
        (["--calibration_samples=0"], "--calibration_samples >= 1"),
        (["--minimum_segment_size=0"], "--minimum_segment_size >= 1"),
        (["--max_accuracy_drop=-0.01"], "--max_accuracy_drop between 0 and 1"),
        (["--max_accuracy_drop=1.01"], "--max_accuracy_drop between 0 and 1"),
    ],
)
def test_what_no_conversion_can_be_is_refused(native, monkeypatch, arguments, named):
    monkeypatch.delattr(opening, "convert")  # none begins
    with refused(named):
        opening.converted(native, options(*arguments), read_examples)


@pytest.mark.parametrize(
    ("arguments", "judged", "says"),
    [
        (["--calibration_data_dir=own", "--data_dir=scored"], False, False),
        (["--calibration_data_dir=own", "--max_accuracy_drop=0"], True, False),
        (["--data_dir=scored", "--calibration_samples=4"], False, True),
        (["--data_dir=scored", "--max_accuracy_drop=0.5"], True, True),
    ],
)
def test_calibration_reads_its_own_data_or_else_those_to_run(
    native, monkeypatch, capsys, arguments, judged, says
):
    read, calls = [], []
    monkeypatch.setattr(opening, "convert", lambda *given, **_: calls.append(given))
    monkeypatch.setattr(opening, "choose_backend", lambda *_, **__: "openvino")
    reader = lambda *given: read.append(given) or "data"  # noqa: E731 - it stands in for a function
    opening.converted(native, options(*arguments), reader)
    ((*_, calibration),) = calls
    assert not read  # only where a model is quantized
    assert calibration.read() == "data"
    directory = Path("scored" if says else "own").resolve()
    samples = 4 if "--calibration_samples=4" in arguments else 128
    assert read == [(PIPELINE, directory, samples, judged)]
    assert calibration.described == {"data_dir": str(directory), "num_samples": samples}
    assert calibration.required == (not says)  # else an earlier conversion with other data serves
    assert ("--data_dir scored" in capsys.readouterr().err) == says


@pytest.mark.parametrize(
    ("given", "visible"), [(None, "before"), ("0,1", "0,1"), (" 3, 0 ", "3,0"), ("-1", "-1")]
)
def test_only_the_devices_named_are_visible(monkeypatch, given, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "before")
    given = [] if given is None else [f"--visible_devices={given}"]
    opening.restrict_devices(options(*given).visible_devices)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize("given", ["0,", "gpu0", "0;1", "-", "0,,1", "1.5"])
def test_devices_that_cannot_be_are_refused(monkeypatch, given):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "before")
    with refused("--visible_devices like 0,1, or -1"):
        opening.restrict_devices(options(f"--visible_devices={given}").visible_devices)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "before"


def test_eager_runs_open_the_saved_model_itself(native, monkeypatch):
    monkeypatch.delattr(opening, "open_converted")
    monkeypatch.setattr(opening, "load", lambda *given: ("runner of", *given))
    opened = opening.open_runner(native, options("--run_eagerly"), read_examples)
    assert opened == ("runner of", native, Execution())


@pytest.mark.parametrize("reused", [False, True])
def test_other_runs_open_what_was_converted_and_say_so_once(native, monkeypatch, capsys, reused):
    request = {"backend": "openvino"}
    manifest = {"directory": "made", "reused": reused, "request": request, "seconds": 1.23}
    manifest["copied"] = False
    executions = []

    def open_converted(*_, execution):
        executions.append(execution)
        return "artifact", manifest

    monkeypatch.setattr(opening, "open_converted", open_converted)
    monkeypatch.setattr(opening, "choose_backend", lambda *_, **__: "openvino")
    monkeypatch.setattr(opening, "JitRunner", lambda artifact: ("runner of", artifact))
    opened = opening.open_runner(native, options("--batch_size=2"), read_examples)
    assert opened == ("runner of", "artifact") and executions == [Execution(throughput=True)]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("for openvino in 1.2 s: made" in captured.err) == (not reused)


@pytest.mark.parametrize(
    ("backend", "threads"), [("xla", 1), ("openvino", None), ("onnxruntime", None)]
)
def test_tensorflow_gets_the_threads_of_xla_alone(native, monkeypatch, backend, threads):
    given = []
    monkeypatch.setattr(opening, "LoadedModel", lambda *arguments: given.append(arguments))
    monkeypatch.setattr(opening, "convert", lambda *_, **__: {})
    opening.converted(native, options("--threads=1", f"--backend={backend}"), read_examples)
    assert given == [(native, threads)]


def test_a_converted_model_is_opened_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.delattr(opening, "open_converted")
    monkeypatch.setattr(opening, "load", lambda *given: ("runner of", *given))
    opened = opening.open_runner(tmp_path, options("--threads=1"), read_examples)
    assert opened == ("runner of", tmp_path, Execution(threads=1))


@pytest.mark.parametrize("threads", ["0", "-1", "5000"])
def test_threads_that_the_machine_lacks_are_refused(tmp_path, monkeypatch, threads):
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.delattr(opening, "load")
    with refused(f"the cores of this machine. Received: {threads}. Correct --threads"):
        opening.open_runner(tmp_path, options(f"--threads={threads}"), read_examples)


@pytest.mark.parametrize(
    "flag", ["run_eagerly", "backend=xla", "quant_precision=bf16", "dim_range=a=1"]
)
def test_a_converted_model_refuses_what_it_was_not_converted_for(tmp_path, monkeypatch, flag):
    (tmp_path / "manifest.json").write_text("{}")
    monkeypatch.delattr(opening, "load")
    with refused(f"a SavedModel with --{flag.partition('=')[0]}"):
        opening.open_runner(tmp_path, options(f"--{flag}"), read_examples)


def test_a_converted_model_accepts_its_own_precision(tmp_path, monkeypatch):
    (tmp_path / "manifest.json").write_text('{"request": {"precision": "int8_fp32"}}')
    monkeypatch.setattr(opening, "load", lambda *given: "runner")
    for flags_ in (["--quant_precision=int8_fp32"], []):
        assert opening.open_runner(tmp_path, options(*flags_), read_examples) == "runner"
    with refused("a SavedModel with --quant_precision"):
        opening.open_runner(tmp_path, options("--quant_precision=fp32"), read_examples)


@pytest.mark.parametrize(
    ("own", "asked", "do"),
    [
        ("fp32", "int8_fp32", "leave --run_eagerly out"),
        ("fp32", "bf16", "--precision=bf16"),
        ("fp16", "fp32", "--precision=fp32"),
        ("fp16", "int8_fp16", "leave --run_eagerly out"),
    ],
)
def test_what_runs_eagerly_has_the_precision_of_the_export(native, monkeypatch, own, asked, do):
    pipeline = native / "assets" / "pipeline.json"
    pipeline.write_text(json.dumps({**PIPELINE, "precision": own}))
    monkeypatch.setattr(opening, "load", lambda *given: "runner")
    for accepted in ([], [f"--quant_precision={own}"]):
        opened = opening.open_runner(native, options("--run_eagerly", *accepted), read_examples)
        assert opened == "runner"
    monkeypatch.delattr(opening, "load")
    with refused(match=f"--quant_precision={own} with --run_eagerly.* Received: {asked}.*{do}"):
        opening.open_runner(
            native, options("--run_eagerly", f"--quant_precision={asked}"), read_examples
        )


def test_a_half_precision_model_is_not_converted(native, monkeypatch):
    (native / "assets" / "pipeline.json").write_text(json.dumps({**PIPELINE, "precision": "bf16"}))
    monkeypatch.delattr(opening, "convert")
    with refused("a SavedModel in fp32 to convert. Received: "):
        opening.converted(native, options(), read_examples)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_nothing_is_refused_in_either_mode(native, monkeypatch, batch_size):
    monkeypatch.delattr(opening, "load")
    for flag in ("--run_eagerly", "--norun_eagerly"):
        with refused("--batch_size >= 1"):
            opening.open_runner(native, options(flag, f"--batch_size={batch_size}"), read_examples)


def test_options_are_frozen_and_have_the_defaults_of_the_flags():
    assert options() == RunnerOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options().batch_size = 2
    assert from_keywords(RunnerOptions, {"batch_size": 3}) == options("--batch_size=3")


def test_a_misspelt_option_names_the_nearest_one():
    with refused("an option of load. Received: quant_precison. Use quant_precision."):
        from_keywords(RunnerOptions, {"quant_precison": "bf16"})
    with refused("Use one of batch_size, data_dir"):
        from_keywords(RunnerOptions, {"xyzzy": 1})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", "4", "an integer for batch_size. Received: '4'. Correct batch_size."),
        ("batch_size", None, "an integer for batch_size. Received: None"),
        ("batch_size", 1.5, "an integer for batch_size. Received: 1.5"),
        ("batch_size", True, "an integer for batch_size. Received: True"),
        ("batch_size", np.float32(2), "an integer for batch_size"),
        ("run_eagerly", "yes", "true or false for run_eagerly. Received: 'yes'"),
        ("run_eagerly", 1, "true or false for run_eagerly. Received: 1"),
        ("max_seconds", "10", "a number for max_seconds. Received: '10'"),
        ("max_seconds", True, "a number for max_seconds. Received: True"),
        ("max_seconds", math.nan, "a number for max_seconds. Received: nan"),
        ("backend", 3, "a string for backend. Received: 3"),
        ("data_dir", b"x", "a string for data_dir. Received: b'x'"),
    ],
)
def test_an_option_of_another_type_is_refused(name, value, expected):
    with refused(f"Expected {expected}"):
        from_keywords(RunnerOptions, {name: value})


def test_values_that_mean_the_type_of_an_option_get_it():
    given = {
        "batch_size": np.int64(3),
        "run_eagerly": np.bool_(True),
        "max_seconds": 7,
        "max_accuracy_drop": None,
        "data_dir": Path("a/b"),
    }
    made = from_keywords(RunnerOptions, given)
    assert made == RunnerOptions(batch_size=3, run_eagerly=True, max_seconds=7.0, data_dir="a/b")
    kinds = {name: type(getattr(made, name)) for name in given}
    assert kinds == {
        "batch_size": int,
        "run_eagerly": bool,
        "max_seconds": float,
        "max_accuracy_drop": type(None),
        "data_dir": str,
    }


def test_numbers_and_switches_have_the_defaults_that_help_tells():
    values = parsed()
    assert (values.batch_size, values.warmup_count, values.data_ratio) == (1, 1, 1.0)
    assert not values.run_eagerly
    assert values.enable_dim_range
