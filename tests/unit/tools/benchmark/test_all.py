"""The figures of docs/benchmarks.md measured again, by stand-ins for its commands."""

import json

import pytest

from tests.support.errors import refused
from tests.support.page_figures import figures_in
from tools.benchmark import multi_infer
from tools.benchmark.all import PAGE, main, measure, page_cell, parse_data
from tools.benchmark.page_figures import FIGURES, Done, Figure
from tools.benchmark.page_jobs import Job, read_jobs
from tools.benchmark.robustness import CHANGES, REPETITIONS, describe
from tools.recognition.program import show

SECTION = "spoken-digits-speech-conformer"
INFER = "WER {}%, CER 1.72% (7 substitutions, 1 deletion, 2 insertions)"
STAND_IN = f"""# Benchmarks
```bash
# needs: DIGITS
echo tools.benchmark.all > DIGITS/itself.txt
```
## Spoken digits, speech Conformer
```bash
# needs: DIGITS
cat DIGITS/first.txt \\
  DIGITS/empty.txt  # conformer.infer
echo "{INFER.format("2.50")}"  # conformer.infer
```
```bash
# needs: DIGITS, 10 minutes
touch DIGITS/long.txt
```
```bash
# needs: a corpus in SONGS, setup.sh --peers
touch DIGITS/songs.txt
```
| what | figure |
|---|---|
| WER, in TensorFlow and converted: the same texts | 2.04 % |
| CER | 1.72 % |
| substitutions, deletions, insertions | 7, 1, 2 |
"""


@pytest.fixture
def digits(tmp_path):
    folder = tmp_path / "made" / "digits"
    folder.mkdir(parents=True)
    (folder / "first.txt").write_text(INFER.format("2.04") + "\n")
    (folder / "empty.txt").touch()
    return folder


@pytest.fixture
def call(tmp_path, digits, capsys):
    """Runs the program on a page; returns its exit code, its output and its report."""

    def run(page, *words, report=tmp_path / "report.json"):
        (tmp_path / "page.md").write_text(page)
        flags = [f"--page={tmp_path}/page.md", f"--json={report}", f"--data=DIGITS={digits}"]
        code = main([*flags, *words])
        return code, capsys.readouterr().out.splitlines(), json.loads(report.read_text())

    return run


def test_figures_of_the_page_stand_beside_those_of_now(call, digits):
    code, lines, report = call(STAND_IN, "--quick")
    assert code == 0
    assert lines == [
        f"left out: {SECTION}, needs 10 minutes",
        f"left out: {SECTION}, needs a corpus in SONGS, setup.sh --peers",
        f"{SECTION} | WER, in TensorFlow and converted: the same texts | page 2.04 % | "
        "now 2.04 %; 2.50 %",
        f"{SECTION} | CER | page 1.72 % | now 1.72 %",
        f"{SECTION} | substitutions, deletions, insertions | page 7, 1, 2 | now 7, 1, 2",
    ]
    assert report["figures"][1] == {
        "section": SECTION,
        "what": "CER",
        "page": "1.72 %",
        "now": "1.72 %",
    }
    assert [one["needs"][0] for one in report["left_out"]] == ["10 minutes", "a corpus in SONGS"]
    assert [one["ok"] for one in report["commands"]] == [True, True]
    assert all(one["seconds"] > 0 for one in report["commands"])
    assert sorted(x.name for x in digits.iterdir()) == ["empty.txt", "first.txt"]


def test_long_commands_run_without_quick(call, digits):
    code, _, report = call(STAND_IN)
    assert code == 0 and (digits / "long.txt").exists() and not (digits / "songs.txt").exists()
    assert len(report["left_out"]) == 1


def test_a_command_that_fails_leaves_its_figures_out_and_the_others_run(call, digits):
    (digits / "empty.txt").unlink()
    code, lines, report = call(STAND_IN)
    assert code == 1
    assert [row["now"] for row in report["figures"]] == [None] * 3
    assert lines[-1].endswith("| now not measured")
    assert (digits / "long.txt").exists()


def test_a_figure_that_is_not_printed_is_no_success(call, digits):
    (digits / "first.txt").write_text("WER unknown\n")
    assert call(STAND_IN, "--quick")[0] == 1


def test_sections_choose(call):
    page = f"{STAND_IN}## Quick start\n```bash\necho\n```\n"
    assert call(page, "--sections=quick-start")[2]["figures"] == []
    with refused(
        "--sections among spoken-digits-speech-conformer, quick-start. Received: quickstart"
    ):
        call(page, "--sections=quickstart")


def test_bad_input_is_one_line_and_runs_nothing(call, digits, tmp_path):
    with refused('a row "CER" in the section ' + SECTION):
        call(STAND_IN.replace("| CER | 1.72 % |\n", ""))
    with refused("flags alone. Received: more"):
        call(STAND_IN, "more")
    (tmp_path / "taken").mkdir()
    with refused("a regular file or a new path"):
        call(STAND_IN, report=tmp_path / "taken")
    assert not (digits / "long.txt").exists()
    (tmp_path / "page.bin").write_bytes(b"\xff\xfe\xff")
    with refused("a text file as --page"):
        main([f"--page={tmp_path}/page.bin"])


def test_data_are_names_of_the_page_and_places_that_exist(tmp_path):
    assert parse_data([f"S={tmp_path}/../{tmp_path.name}"], {"S"}) == {"S": tmp_path}
    for word in ("T=.", "S", "S=", ""):
        received = word or '""'
        with refused(f"--data NAME=PATH with NAME among R, S. Received: {received}. Correct"):
            parse_data([word], {"S", "R"})
    with refused("data in --data S. Received: nowhere, which is missing"):
        parse_data(["S=nowhere"], {"S"})


def test_commands_run_in_the_checkout_and_leave_nothing_there():
    command = "ls configs README.md && touch here && printf 'x=%s\\n' 0.5"
    job = Job("a", (command, "ls here && echo x=1 && false", "echo x=3"), ())
    figure = Figure("a", ("row",), "printf", r"x=([\d.]+)", 0, "%", scale=100)
    page = "# A\n| what | figure |\n|---|---|\n| | 0 |\n| row | 1 % |\n"
    report = measure(page, [job], {}, [figure, figure._replace(command="echo x=[13]")])
    assert [row["now"] for row in report["figures"]] == ["50 %", None]
    assert [row["page"] for row in report["figures"]] == ["1 %", "1 %"]
    assert [one["ok"] for one in report["commands"]] == [True, False]
    assert not (PAGE.parents[1] / "here").exists()


def test_every_figure_of_the_list_has_its_place_on_the_page_and_a_short_command():
    page = PAGE.read_text("utf-8")
    jobs = read_jobs(page)
    for figure in FIGURES:
        assert any(char.isdigit() for char in page_cell(figure, page)), figure.what
        needs = {need for job in jobs if figure.is_of(job) for need in job.needs}
        assert any(figure.is_of(job) for job in jobs), figure.what
        assert not [need for need in needs if "hour" in need or "0 minutes" in need], figure.what


def test_the_needs_of_the_page_are_known():
    for job in read_jobs(PAGE.read_text("utf-8")):
        assert set(job.lacks(job.data, quick=False)) <= {"setup.sh --peers"}


def test_a_duration_is_read_as_seconds():
    figure = Figure("a", ("row",), "b", None, 1, "s")
    assert figure.read([Done("a b", "", 1.25), Done("b", "", 61.0)]) == "1.2 s; 61.0 s"
    assert figure.read([Done("a", "", 1.0)]) is None


def test_figures_are_read_from_what_the_programs_print(capsys):
    summary = {
        "wer": 0.0204,
        "cer": 0.0172,
        "substitutions": 7,
        "deletions": 1,
        "insertions": 2,
        "num_utterances": 150,
        "audio_seconds": 391.0,
        "recognition_seconds": 3.0,
        "batch_size": 16,
        "mode": "jit",
        "backend": "openvino",
        "precision": "fp32",
        "rtf": 0.01,
        "rtfx": 100.0,
        "samples_per_second": 50.0,
        "end_to_end_samples_per_second": 40.0,
    }
    same = {"wer": 0.0204, "cer": 0.0172}
    summary |= {"score_text": "normalized", "raw": same, "normalized": same}
    show(summary, [])
    figures = figures_in(capsys.readouterr().err, "conformer.infer", SECTION)
    assert list(figures.values())[:3] == ["2.04 %", "1.72 %", "7, 1, 2"]
    row = {"wer": 0.0235, "num_words": 637, "substitutions": 1, "deletions": 2, "insertions": 12}
    printed = "".join(f"{name}: {describe(row)}\n" for name in (*CHANGES, *REPETITIONS))
    figures = figures_in(printed, "tools.benchmark.robustness", SECTION)
    found = [value for name, value in figures.items() if name.endswith("CTC head")]
    assert found == ["2.35 %"] * 12


def test_figures_are_read_from_a_table_of_many_runs(tmp_path, capsys):
    paths = []
    for number, (mode, precision, batch) in enumerate(
        (mode, precision, batch)
        for mode, precision in (("eager", "fp32"), ("jit", "fp32"), ("jit", "int8_fp32"))
        for batch in (4, 1)
    ):
        report = {
            "mode": mode,
            "backend": "openvino",
            "precision": precision,
            "batch_size": batch,
            "wer": 0.01,
            "end_to_end_samples_per_second": 10.0 + number,
            "samples_per_second": 20.0 + number,
            "latency_ms_p50": 30.0 + number,
            "latency_ms_p95": 40.0 + number,
            "rtfx": 50.0 + number,
            "peak_memory_mib": 60.0 + number,
            "model_mib": 70.0,
            "quantization": {"algo": "linear", "type": "symm"} if "int8" in precision else None,
        }
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(report))
    multi_infer.main([f"--output_dir={tmp_path}/table", *map(str, paths)])
    section = "transcription-with-the-bundled-model"
    figures = figures_in(capsys.readouterr().out, "multi_infer_run.sh", section)
    assert list(figures.values()) == [
        *("1.00", "21 / 20", "31 / 30", "51 / 50", "70.0"),
        *("1.00", "23 / 22", "33 / 32", "53 / 52", "70.0"),
        *("1.00", "25 / 24", "35 / 34", "55 / 54", "70.0"),
    ]
