"""The flags that inference programs share: what they ask a converter, a runner and the machine."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import conformer.infer
import vision.infer
import wav2vec2.infer
from tests.support.errors import refused
from tools.config.command_line import CommandLine
from tools.conversion.request import OPT_CONFIG, ConversionRequest, Quantization
from tools.inference import flags

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
        monkeypatch.setattr(flags, "convert", lambda *given: calls.append(given) or {})
        assert flags.convert_as_asked(parsed(*arguments), native) == {}
        ((source, target, request, calibration),) = calls
        assert source == native
        return SimpleNamespace(target=target, request=request, calibration=calibration)

    return run


def test_without_flags_the_converter_gets_its_defaults(converted):
    asked = converted()
    assert asked.request == ConversionRequest(batch=(1, 2))
    assert (asked.target, asked.calibration) == (None, None)


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("backend=onnxruntime", {"backend": "onnxruntime"}),
        ("quant_precision=int8_fp16", {"precision": "int8_fp16"}),
        ("batch_size=5", {"batch": (1, 10)}),
        ("opt_config=none", {"opt_config": ()}),
        ("opt_config=", {"opt_config": ()}),
        (f"opt_config= {OPT_CONFIG[1]}", {"opt_config": (OPT_CONFIG[1],)}),
        (f"opt_config={OPT_CONFIG[1]}, {OPT_CONFIG[0]}", {"opt_config": OPT_CONFIG[::-1]}),
        ("minimum_segment_size=1", {"minimum_segment_size": 1}),
        ("minimum_segment_size=7", {"minimum_segment_size": 7}),
    ],
)
def test_a_flag_of_the_conversion_reaches_the_request(converted, flag, expected):
    assert converted(f"--{flag}").request == ConversionRequest(**{"batch": (1, 2), **expected})


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
    assert request == ConversionRequest(quantization=Quantization(**expected))


def test_the_place_of_the_converted_model_is_handed_on(converted, tmp_path):
    assert converted(f"--converted_savedmodel_dir={tmp_path}").target == str(tmp_path)


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
    assert request == ConversionRequest(batch=(1, 8), dim_range=ranges)
    request = converted("--dim_range=a=2;b=2,1:3", size).request
    ranges = {"a": ((2, 2),), "b": ((2, 2), (1, 3))}
    assert request == ConversionRequest(batch=(2, 2), dim_range=ranges)


def test_max_seconds_leaves_a_range_as_it_is(converted):
    assert converted("--max_seconds=2").request == ConversionRequest(batch=(1, 2))


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
    monkeypatch.delattr(flags, "convert")  # none begins
    with refused(named):
        flags.convert_as_asked(parsed(*arguments), native)


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
    converted, monkeypatch, capsys, arguments, judged, says
):
    read = []
    monkeypatch.setattr(conformer.infer, "examples", lambda *given: read.append(given) or "data")
    calibration = converted(*arguments).calibration
    assert not read  # only where a model is quantized
    assert calibration.read() == "data"
    directory = Path("scored" if says else "own").resolve()
    samples = 4 if "--calibration_samples=4" in arguments else 128
    assert read == [(PIPELINE, directory, samples, judged)]
    assert calibration.described == {"data_dir": str(directory), "num_samples": samples}
    assert calibration.required == (not says)  # else an earlier conversion with other data serves
    assert ("--data_dir scored" in capsys.readouterr().err) == says


def test_families_are_found_by_name():
    for module in (conformer.infer, vision.infer, wav2vec2.infer):
        assert flags.family({"family": module.__name__.partition(".")[0]}) is module
        assert callable(module.examples)
    for pipeline in ({"family": "os"}, {}):
        with refused("conformer, vision, wav2vec2"):
            flags.family(pipeline)


@pytest.mark.parametrize(
    ("given", "visible"), [(None, "before"), ("0,1", "0,1"), (" 3, 0 ", "3,0"), ("-1", "-1")]
)
def test_only_the_devices_named_are_visible(monkeypatch, given, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "before")
    flags.restrict_devices(parsed(*([] if given is None else [f"--visible_devices={given}"])))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


@pytest.mark.parametrize("given", ["", "0,", "gpu0", "0;1", "-", "0,,1", "1.5"])
def test_devices_that_cannot_be_are_refused(monkeypatch, given):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "before")
    with refused("--visible_devices like 0,1, or -1"):
        flags.restrict_devices(parsed(f"--visible_devices={given}"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "before"


@given(st.integers(1, 200), st.integers(1, 250))
def test_a_spread_has_equal_distances_over_the_whole(length, count):
    chosen = flags.spread(range(length), count)
    assert len(chosen) == min(count, length)
    distances = [b - a for a, b in zip(chosen, [*chosen[1:], length], strict=True)]
    assert chosen[0] == 0
    assert min(distances) >= 1
    assert max(distances) - min(distances) <= 1


@pytest.mark.parametrize(
    ("ratio", "chosen"),
    [(1.0, "abcdefghij"), (0.5, "acegi"), (0.2, "af"), (0.26, "adg"), (0.01, "a")],
)
def test_a_share_of_a_data_set_is_spread_over_it(ratio, chosen):
    assert "".join(flags.share("abcdefghij", ratio)) == chosen


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.01, float("nan")])
def test_shares_that_cannot_be_are_refused(ratio):
    with refused("--data_ratio above 0 and up to 1"):
        flags.share("abc", ratio)


def test_eager_runs_open_the_saved_model_itself(native, monkeypatch):
    monkeypatch.delattr(flags, "convert")
    monkeypatch.setattr(flags, "load", lambda directory: ("runner of", directory))
    assert flags.open_runner(parsed("--run_eagerly"), native) == ("runner of", native)


@pytest.mark.parametrize("reused", [False, True])
def test_other_runs_open_what_was_converted_and_say_so_once(native, monkeypatch, capsys, reused):
    request = {"backend": "openvino"}
    manifest = {"directory": "made", "reused": reused, "request": request, "seconds": 1.23}
    monkeypatch.setattr(flags, "convert", lambda *_: manifest)
    monkeypatch.setattr(flags, "load", lambda directory: ("runner of", directory))
    assert flags.open_runner(parsed(), native) == ("runner of", "made")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("for openvino in 1.2 s: made" in captured.err) == (not reused)


def test_numbers_and_switches_have_the_defaults_that_help_tells():
    values = parsed()
    assert (values.batch_size, values.warmup_count, values.data_ratio) == (1, 1, 1.0)
    assert not values.run_eagerly
    assert values.enable_dim_range
