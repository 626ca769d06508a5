"""The side-by-side timing of a small model."""

import json

import numpy as np

from tests.support.errors import refused
from tests.support.page_figures import figures_in
from tests.support.peers import known_times
from tools.benchmark import inference
from tools.benchmark.inference import inputs_of_sizes, main
from tools.conversion.protocol import TensorSpec

SPECS = (
    TensorSpec("images", "float32", ((1, 4), (10, 1000), 3)),
    TensorSpec("lengths", "int32", ((1, 4),)),
)


def test_inputs_have_the_sizes_asked_for_or_the_middle_of_the_range():
    inputs = inputs_of_sizes(SPECS, 2, {})
    assert inputs["images"].shape == (2, 100, 3)
    assert inputs["lengths"].tolist() == [100, 100]
    inputs = inputs_of_sizes(SPECS, 4, {"images": [50]})
    assert inputs["images"].shape == (4, 50, 3)
    assert inputs["images"].dtype == np.float32
    for sizes in ({"images": [50, 60]}, {"sounds": [1]}):
        with refused(match="--size"):
            inputs_of_sizes(SPECS, 1, sizes)


def test_a_model_is_timed_in_both_runners(native, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    medians = {"eager": 8.0, "jit": 2.0, "fixed": 1.5, "fp16": 1.0}
    monkeypatch.setattr(inference, "time_in_turn", known_times(medians))
    report = tmp_path / "report.json"
    arguments = [f"--native_savedmodel_dir={native}", f"--converted_savedmodel_dir={tmp_path}/c"]
    small = ["--batch_sizes=1,2", "--loop=3", "--warmup_seconds=0", "--size=waveforms=20"]
    main([*arguments, *small, "--quant_precision=fp32,fp16", f"--json={report}"])
    found = json.loads(report.read_text())
    assert [row["batch"] for row in found["results"]] == [1, 2]
    for row in found["results"]:
        assert row["shapes"]["waveforms"] == [row["batch"], 20]
        assert {name: row[name]["median_ms"] for name in medians} == medians
        assert (row["speedup"], row["range_against_fixed"]) == (4.0, 0.75)
    printed = capsys.readouterr().out
    assert printed.count("batch") == 2
    assert printed.count(" 4.00 x;") == printed.count(" 2.00 x jit;") == 2
    assert printed.count("the range has 0.75 of its speed") == 2
    int8 = printed.replace("fp16", "int8_fp32")
    figures = figures_in(int8, "tools.benchmark.inference", "conformer-s-encoder")
    found = [value for name, value in figures.items() if name.endswith("batch 1")]
    assert found == ["8 ms", "2.0 ms", "4.0 x", "1.0 ms", "2.00 x", "0.75"]
    with refused(match="serving_default"):
        main([*arguments, "--signature=nothing"])
    for flag in ("--batch_sizes=1,x", "--loop=0", "--size=waveforms"):
        with refused(match="Correct"):
            main([*arguments, flag])
