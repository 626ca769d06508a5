"""One table of many reports: its values, what is missing, and what is no report."""

import csv
import json
import random

import matplotlib.image
import pytest

from tests.support.errors import refused
from tests.support.figures import lines_of, recorded
from tools.benchmark.multi_infer import describe_quantization, main

INT8 = {"algo": "linear", "type": "symm", "granularity": "per_tensor"}


def report(mode="eager", precision="fp32", batch_size=4, **changes):
    return {
        "mode": mode,
        "backend": "tensorflow" if mode == "eager" else "openvino",
        "precision": precision,
        "batch_size": batch_size,
        "wer": 0.05,
        "num_utterances": 40,
        "end_to_end_samples_per_second": 10.0,
        "samples_per_second": 20.0,
        "latency_ms_p50": 200.0,
        "latency_ms_p95": 250.0,
        "rtfx": 100.0,
        "peak_memory_mib": 500.0,
        "model_mib": 48.2,
        "conversion_seconds": None if mode == "eager" else 30.0,
        "quantization": INT8 if precision.startswith("int8") else None,
    } | changes


@pytest.fixture
def gather(tmp_path, capsys):
    """Runs the program on reports and gives the rows of the CSV by header."""

    def run(*reports):
        paths = []
        for index, content in enumerate(reports):
            paths.append(tmp_path / f"report_{index}.json")
            paths[-1].write_text(json.dumps(content))
        main([f"--output_dir={tmp_path}/table", *map(str, paths)])
        run.printed = capsys.readouterr().out
        run.folder = tmp_path / "table"
        with (run.folder / "table.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    return run


def test_every_value_stands_under_its_header(gather):
    eager, jit = gather(
        report(),
        report(
            "jit",
            "int8_fp32",
            wer=0.0625,
            end_to_end_samples_per_second=25.0,
            peak_memory_mib=321.0,
        ),
    )
    assert eager == {
        "mode": "eager",
        "backend": "tensorflow",
        "precision": "fp32",
        "quantization": "-",
        "batch": "4",
        "WER %": "5.00",
        "end-to-end samples/s": "10.00",
        "hardware_fps": "20.00",
        "p50 ms": "200.00",
        "p95 ms": "250.00",
        "RTFx": "100.0",
        "memory MiB": "500",
        "size MiB": "48.2",
        "conversion s": "-",
        "speed-up x": "1.00",
        "WER change points": "+0.00",
    }
    assert jit == eager | {
        "mode": "jit",
        "backend": "openvino",
        "precision": "int8_fp32",
        "quantization": "linear symm per_tensor",
        "WER %": "6.25",
        "end-to-end samples/s": "25.00",
        "memory MiB": "321",
        "conversion s": "30.0",
        "speed-up x": "2.50",
        "WER change points": "+1.25",
    }


def test_terminal_markdown_and_csv_hold_the_same_cells(gather):
    rows = gather(report(), report("jit", backend="a|b"), report("jit", "int8_fp32", 16))
    expected = [list(rows[0]), *(list(row.values()) for row in rows)]
    lines = (gather.folder / "table.md").read_text().splitlines()
    assert lines.pop(1).count("---") == len(expected[0])
    cells = [line.replace("\\|", "/").strip("| ").split("|") for line in lines]
    found = [[cell.strip().replace("/", "|") for cell in row] for row in cells]
    assert found == [[cell.replace("/", "|") for cell in row] for row in expected]
    printed = gather.printed.splitlines()
    assert [" ".join(line.split()) for line in printed] == [" ".join(row) for row in expected]
    ends = [[line.index(row[5]) + len(row[5])] for line, row in zip(printed, expected, strict=True)]
    assert all(end == ends[0] for end in ends), "numbers end in one column"


def test_rows_are_sorted_and_held_against_the_eager_row_of_their_batch(gather):
    reports = [
        report(mode, precision, batch, end_to_end_samples_per_second=speed * batch)
        for mode, precision, speed in (
            ("eager", "fp32", 10), ("jit", "bf16", 40), ("jit", "fp32", 20), ("jit", "int8_fp32", 5)
        )
        for batch in (1, 4, 16)
    ]  # fmt: skip
    shuffled = random.Random(0).sample(reports, len(reports))
    rows = gather(*shuffled)
    keys = [(row["mode"], row["precision"], int(row["batch"])) for row in rows]
    assert keys == [(x["mode"], x["precision"], x["batch_size"]) for x in reports]
    assert [row["speed-up x"] for row in rows] == (
        ["1.00"] * 3 + ["4.00"] * 3 + ["2.00"] * 3 + ["0.50"] * 3
    )


def test_what_is_missing_is_a_dash(gather):
    poor = {"mode": "jit", "precision": "fp32", "batch_size": 8, "wer": None}
    full, row = gather(report(), poor | {"rtfx": float("inf"), "latency_ms_p50": float("nan")})
    assert row.pop("batch") == "8"
    assert set(row.values()) == {"jit", "fp32", "-"}
    assert "-" in full.values()
    rows = gather(report("jit"), report("eager", batch_size=8), report("eager", "fp16"))
    changes = {(row["mode"], row["precision"], row["batch"]): row["speed-up x"] for row in rows}
    assert changes == {
        ("jit", "fp32", "4"): "-",
        ("eager", "fp32", "8"): "1.00",
        ("eager", "fp16", "4"): "-",
    }
    rows = gather(report(end_to_end_samples_per_second=0.0), report("jit"))
    assert [row["speed-up x"] for row in rows] == ["-", "-"]


def test_reports_of_vision_need_nothing_of_their_own(gather):
    def seen(top1, *kind, **changes):
        found = report(*kind, top1=top1, **changes)
        del found["wer"], found["rtfx"]
        return found

    rows = gather(seen(0.8385), seen(0.8382, "jit"))
    assert [row["top-1 %"] for row in rows] == ["83.85", "83.82"]
    assert [row["top-1 change points"] for row in rows] == ["+0.00", "-0.03"]
    assert not any("WER" in header for header in rows[0])
    rows = gather(seen(0.8385), report("jit"))
    assert [(row["WER %"], row["top-1 %"]) for row in rows] == [("-", "83.85"), ("5.00", "-")]


@pytest.mark.parametrize(
    "reports",
    [
        [report()],
        [report(wer=None), {"mode": "jit", "precision": "fp32", "batch_size": 1, "top1": None}],
        [report("jit", f"p$_{i}$", 2**j, backend="_x") for i in range(12) for j in range(6)],
        [report("jit", backend=x, quantization=y) for x in ("a", "b") for y in (None, INT8)],
    ],
)
def test_the_plot_is_a_picture_whatever_there_is(gather, reports):
    gather(*reports)
    image = matplotlib.image.imread(gather.folder / "table.png")
    assert image.shape[0] > 400
    assert image.shape[1] > 1000
    assert image.min() < 0.5 < image.max()
    names = sorted(path.name for path in gather.folder.iterdir())
    assert names == ["table.csv", "table.md", "table.png"]


def test_quantization_is_told_in_few_words():
    assert describe_quantization({}) == "-"
    assert describe_quantization({"algo": None, "opt_config": []}) == "-"
    assert describe_quantization({"granularity": "per_axis", "algo": "eqnm"}) == "eqnm per_axis"
    more = {
        "opt_config": ["conv_scale_fold"],
        "minimum_segment_size": 3,
        "float_layers": [f"layer_{i}" for i in range(20)],
        "accuracy_aware": False,
    }
    assert describe_quantization(INT8 | more) == (
        "linear symm per_tensor opt_config=conv_scale_fold minimum_segment_size=3 float_layers=20"
    )


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100000,
        b"[1]",
        b"null",
        b"{}",
        json.dumps({"title": "Overall", "value": []}).encode(),
        *(
            json.dumps(report() | {key: value}).encode()
            for key, value in {
                "mode": "lazy",
                "precision": None,
                "backend": 3,
                "batch_size": 0,
                "wer": "5 %",
                "rtfx": True,
                "latency_ms_p50": [1.0],
                "quantization": "linear",
            }.items()
        ),
        json.dumps(report(batch_size=4.0)).encode(),
        json.dumps({key: value for key, value in report().items() if key != "wer"}).encode(),
    ],
)
def test_what_is_no_report_is_one_line_that_names_it(tmp_path, content):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(report()))
    if content is not None:
        bad.write_bytes(content)
    with refused(match="report") as caught:
        main([f"--output_dir={tmp_path}/table", str(good), str(bad)])
    assert str(bad) in str(caught.value)
    assert not (tmp_path / "table").exists()


def test_bad_command_lines(tmp_path):
    good = tmp_path / "good.json"
    good.write_text(json.dumps(report(rtfx=10**400)))
    for arguments in ([], [f"--output_dir={tmp_path}"], [str(good)]):
        with refused(match="--output_dir"):
            main(arguments)
    with refused(match="room and permission"):
        main([f"--output_dir={good}/table", str(good)])


def test_the_first_of_several_baselines_counts(gather):
    rows = gather(
        report(end_to_end_samples_per_second=10.0, wer=0.5),
        report(end_to_end_samples_per_second=40.0, wer=0.25),
        report("jit", end_to_end_samples_per_second=20.0, wer=0.25),
    )
    assert [row["speed-up x"] for row in rows] == ["1.00", "4.00", "2.00"]
    assert [row["WER change points"] for row in rows] == ["+0.00", "-25.00", "-25.00"]


def test_the_plot_shows_the_numbers_of_the_table(gather, monkeypatch):
    figures = recorded(monkeypatch)
    gather(
        report(batch_size=8, end_to_end_samples_per_second=40.0, wer=0.0625),
        report(batch_size=1, end_to_end_samples_per_second=12.0, samples_per_second=13.0),
        report("jit", batch_size=8, end_to_end_samples_per_second=80.0, wer=0.125),
        report("jit", batch_size=8, backend="xla", end_to_end_samples_per_second=None),
        report("jit", "int8_fp32", batch_size=4, end_to_end_samples_per_second=90.0),
    )
    (figure,) = figures
    whole, alone, rate = figure.axes
    assert [axes.get_title() for axes in figure.axes] == [
        "end-to-end samples/s",
        "hardware_fps",
        "WER %",
    ]
    assert [axes.get_ylabel() for axes in figure.axes] == ["samples/s", "samples/s", "%"]
    # Batches of 1, 4 and 8 have places 0, 1 and 2.
    assert [label.get_text() for label in whole.get_xticklabels()] == ["1", "4", "8"]
    assert lines_of(whole) == {
        "eager fp32": [(0, 12.0), (2, 40.0)],
        "jit fp32 openvino -": [(2, 80.0)],
        "jit fp32 xla -": [],
        "jit int8_fp32": [(1, 90.0)],
    }
    assert lines_of(alone)["eager fp32"] == [(0, 13.0), (2, 20.0)]
    heights = {name: [y for _, y in points] for name, points in lines_of(rate).items()}
    assert heights["eager fp32"] == [5.0, 6.25]
    assert heights["jit fp32 openvino -"] == [12.5]
    beside = [points[-1][0] for points in lines_of(rate).values()]
    assert len({x % 1 for x in beside}) == 4, "equal rates stand side by side"
    styles = {line.get_label(): line.get_linestyle() for line in whole.lines}
    assert {name for name, style in styles.items() if style == "--"} == {"eager fp32"}
    assert len({line.get_marker() for line in whole.lines}) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(styles)
    assert whole.get_ylim()[0] == alone.get_ylim()[0] == 0
