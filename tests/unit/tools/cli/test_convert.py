"""The program that converts a SavedModel: what it makes, what it says, what it refuses."""

import json
import os
import re

import numpy as np
import pytest

from tests.support.arguments import joined
from tests.support.errors import refused
from tools.cli.convert import main
from tools.config.command_line import run
from tools.conversion import backends
from tools.inference.runner import load


def sound(rows, samples):
    rng = np.random.default_rng([rows, samples])
    lengths = rng.integers(1, samples + 1, rows).astype(np.int32)
    return {"waveforms": rng.standard_normal((rows, samples)).astype("f"), "lengths": lengths}


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("backend", backends.NAMES)
def test_a_model_is_converted_once_and_answers_as_before(native, tmp_path, capsys, backend):
    place = tmp_path / "below" / "converted"
    flags = [f"--native_savedmodel_dir={native}", f"--converted_savedmodel_dir={place}"]
    flags += [f"--backend={backend}", "--batch_size=2"]
    assert main(flags) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    last = printed.err.strip().splitlines()[-1]
    assert re.search(rf"{re.escape(str(place))}: {backend}, fp32, made in \d+\.\d s$", last)
    before = (place / "manifest.json").stat().st_mtime_ns
    assert main(flags) == 0
    told = capsys.readouterr().err.strip()
    assert told == f"{place}: {backend}, fp32, already there"
    assert (place / "manifest.json").stat().st_mtime_ns == before
    for rows, samples in ((64, 50), (1, 10)):  # whatever the batch size is
        inputs = sound(rows, samples)
        expected, found = load(native).run(inputs), load(place).run(inputs)
        np.testing.assert_allclose(found["sums"], expected["sums"], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(found["doubled"], expected["doubled"])
    with refused("[1:64, 10:50]"):
        load(place).run(sound(65, 20))


def test_flags_reach_the_conversion(native, tmp_path):
    place = tmp_path / "converted"
    arguments = f"""--native_savedmodel_dir={native} --converted_savedmodel_dir={place}
        --backend=onnxruntime --quant_precision=fp16 --dim_range=waveforms=1:3,20:30
        --opt_config=type64to32_conversion""".split()
    assert main(arguments) == 0
    manifest = manifest_of(place)
    assert manifest["request"]["precision"] == "fp16"
    assert manifest["request"]["opt_config"] == ["type64to32_conversion"]
    assert not manifest["signatures"]["serving_default"]["options"]["folds"]
    assert "batch_norm" not in manifest["signatures"]["serving_default"]["rewrites"]
    assert "short_index" in manifest["signatures"]["serving_default"]["rewrites"]
    assert manifest["signatures"]["serving_default"]["inputs"][1][2] == [[1, 3], [20, 30]]
    # What quantization is to be like is no part of a model in float.
    assert manifest["request"]["quantization"] is None
    assert main([*arguments, "--quantize_algo=eqnm"]) == 0
    assert manifest_of(place) == manifest
    assert main(joined(arguments, ["--opt_config=none"])) == 0
    assert manifest_of(place)["request"]["opt_config"] == []
    assert "short_index" not in manifest_of(place)["signatures"]["serving_default"]["rewrites"]


def test_without_ranges_one_shape_is_served(native, tmp_path):
    place = tmp_path / "converted"
    flags = [f"--native_savedmodel_dir={native}", f"--converted_savedmodel_dir={place}"]
    assert main([*flags, "--batch_size=3", "--enable_dim_range=0"]) == 0
    assert manifest_of(place)["signatures"]["serving_default"]["inputs"][1][2] == [3, 50]


def test_without_a_place_it_goes_to_the_cache(native, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    places = set()
    openvino, xla = "--backend=openvino", "--backend=xla"
    for flags in ([openvino], [openvino, "--batch_size=3"], [], [xla]):
        assert main([f"--native_savedmodel_dir={native}", *flags]) == 0
        place = capsys.readouterr().err.strip().splitlines()[-1].split(": ")[0]
        assert place.split("\r")[-1].startswith(str(tmp_path / "conformer-zoo" / "converted"))
        places.add(place.split("\r")[-1])
    assert len(places) in (2, 3), "one conversion for all batch sizes, the chosen one, XLA's"
    # To choose a runtime the model is converted for both.
    manifests = [json.loads(path.read_text()) for path in tmp_path.rglob("manifest.json")]
    assert {manifest["request"]["backend"] for manifest in manifests} == {
        "openvino",
        "onnxruntime",
        "xla",
    }


def test_graphics_cards_are_hidden_before_a_conversion(native, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    flags = [f"--native_savedmodel_dir={native}", f"--converted_savedmodel_dir={tmp_path}/c"]
    assert main([*flags, "--visible_devices=-1"]) == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--native_savedmodel_dir="], "a value for --native_savedmodel_dir"),
        (["more"], "--native_savedmodel_dir DIR"),
        (["--native_savedmodel_dir=nowhere"], "nowhere, which does not exist"),
        (["--batch_size=0"], "--batch_size >= 1"),
        (["--minimum_segment_size=0"], "--minimum_segment_size >= 1"),
        (["--max_accuracy_drop=2"], "--max_accuracy_drop between 0 and 1"),
        (["--opt_config=fuse_all"], "--opt_config of conv_scale_fold, type64to32_conversion"),
        (["--backend=tflite"], "one of auto, openvino, onnxruntime, xla"),
        (["--quant_precision=int4"], "int4"),
        (["--quant_precision=int8_fp32"], "--calibration_data_dir"),
        (
            ["--quant_precision=int8_fp32", "--calibration_data_dir=."],
            "a model of one of the families conformer",
        ),
        (["--dim_range=images=1:2"], "--dim_range"),
        (["--dim_range=waveforms=1:2,20:30", "--enable_dim_range=0"], "either --dim_range or"),
        (["--visible_devices=first"], "--visible_devices like 0,1"),
        (["--converted_savedmodel_dir=FULL"], "new or an earlier conversion"),
    ],
)
def test_bad_input_is_one_line_with_code_2(native, tmp_path, capsys, flags, message):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    given = [f"--native_savedmodel_dir={native}", f"--converted_savedmodel_dir={tmp_path}/c"]
    given = joined(given, [word.replace("FULL", f"{tmp_path}/full") for word in flags])
    with pytest.raises(SystemExit) as ended:
        run(main, ["convert", *given])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert re.fullmatch(rf"Error: .*{re.escape(message)}.*\n", printed.err)
    assert not (tmp_path / "c" / "manifest.json").exists()
