"""The scripts that run models, with a Python that only tells how it was called."""

import re
import shutil

import pytest

TELL = '#!/bin/sh\necho python "$@"\n'
PROGRAMS = {"conformer": "infer", "vision": "eval", "wav2vec2": "infer"}


@pytest.fixture(scope="module")
def clone(project, tmp_path_factory):
    """The scripts alone, without an environment that would come before the made-up Python."""
    root = tmp_path_factory.mktemp("clone")
    data = ("data/LibriSpeech", "data/imagenet")
    for folder in ("run_scripts", "bin", "conformer/pretrained/digits", *data):
        (root / folder).mkdir(parents=True)
    shutil.copy(project / "env.sh", root)
    for path in project.glob("run_scripts/Infer_Conformer_*GPU.sh"):
        shutil.copy(path, root / "run_scripts")
    own = (project / "run_scripts" / name for name in ("help.sh", "flags.sh"))
    for path in (*own, *project.glob("run_scripts/*infer_run*.sh")):
        shutil.copy(path, root / "run_scripts")
    (root / "bin" / "python").write_text(TELL)
    (root / "bin" / "python").chmod(0o755)
    for family, program in PROGRAMS.items():
        (root / family).mkdir(exist_ok=True)
        for name in (program, "session"):
            (root / family / f"{name}.py").touch()
    return root


@pytest.fixture
def start(clone, run_script):
    def run(script, *arguments, **variables):
        return run_script(clone, script, arguments, **variables)

    return run


@pytest.mark.parametrize("mode", ["eager", "jit"])
@pytest.mark.parametrize("net", PROGRAMS)
def test_every_family_runs_in_either_mode(start, clone, net, mode):
    variables = {"DATA_DIR": "/d", "IMAGENET_DIR": "/i", "INFER_CKPT": "/m"}
    script = f"infer_run_{mode}_fp32_bsz_4.sh"
    data_dir = "/i/val" if net == "vision" else "/d"
    expected = (
        f"python -m {net}.{PROGRAMS[net]} --run_eagerly={int(mode == 'eager')} "
        f"--quant_precision=fp32 --data_dir {data_dir} --batch_size 16 --native_savedmodel_dir /m "
        f"--result_path {clone}/runs/infer_{net}_{mode}_fp32_bsz_16.json --x=1\n"
    )
    assert start(script, "-b16", "--net_name", net, "--x=1", **variables).stdout == expected


@pytest.mark.parametrize(
    ("words", "mode"),
    [
        (["--batch_size=16", "--quant_precision=bf16", "--run_eagerly=False"], "jit"),
        (["--batch_size", "16", "--quant_precision", "bf16", "--run_eagerly"], "eager"),
        (["-b", "16", "-p", "bf16", "-e", "true"], "eager"),
        (["-e1", "-p", "bf16", "--norun_eagerly", "-b8", "--batch_size=16"], "jit"),
    ],
)
def test_a_report_is_named_by_what_is_run_in_whatever_words(start, words, mode):
    told = start("infer_run.sh", *words, "--x=1").stdout
    assert f"--run_eagerly={int(mode == 'eager')} --quant_precision=bf16 " in told
    assert "--batch_size 16 " in told and told.count("batch_size") == 1
    assert told.endswith(f"/infer_conformer_{mode}_bf16_bsz_16.json --x=1\n")


@pytest.mark.parametrize("words", [["-e", "maybe"], ["--batch_size"], ["-p"]])
def test_flags_without_a_usable_value_are_refused(start, words):
    found = start("infer_run.sh", *words)
    assert (found.returncode, "usage:" in found.stderr) == (2, True)


@pytest.mark.parametrize("net", PROGRAMS)
def test_the_bundled_model_is_that_of_one_family(start, clone, net):
    told = start("infer_run.sh", f"--net_name={net}").stdout
    assert f"python -m {net}." in told and "--batch_size 4 " in told
    bundled = f"--native_savedmodel_dir {clone}/conformer/pretrained/digits"
    assert (bundled in told, "savedmodel" in told) == (net == "conformer",) * 2


def test_a_table_of_every_batch_size_precision_and_mode(start, tmp_path):
    found = start(
        *("multi_infer_run.sh", "-b", "1,64", "--net_name", "wav2vec2"),
        **{"INFER_CKPT": "/m", "OUTPUT_DIR": str(tmp_path), "CALIBRATION_DATA_DIR": "/c"},
    )
    *runs, table = found.stdout.splitlines()
    assert all(x.startswith("python -m wav2vec2.infer ") for x in runs)
    # A run to convert, and one to measure, of each of the two precisions; one in TensorFlow.
    assert [x.split()[8] for x in runs] == ["1"] * 5 + ["64"] * 5
    assert sum("--calibration_data_dir /c" in x for x in runs) == len(runs)
    names = [f"{x}_bsz_{y}" for y in (1, 64) for x in ("eager_fp32", "jit_fp32", "jit_int8_fp32")]
    reports = " ".join(f"{tmp_path}/{name}.json" for name in names)
    assert table == f"python -m tools.benchmark.multi_infer --output_dir {tmp_path} {reports}"


def test_a_half_precision_model_runs_in_tensorflow_only(start, tmp_path):
    (tmp_path / "m" / "assets").mkdir(parents=True)
    text = '{\n "family": "vision",\n "precision": "fp16",\n "convert": {}\n}'
    (tmp_path / "m" / "assets" / "pipeline.json").write_text(text)
    variables = {"INFER_CKPT": str(tmp_path / "m"), "OUTPUT_DIR": str(tmp_path / "o")}
    found = start("multi_infer_run.sh", "--net_name=vision", "-b4", "-pfp32,fp16", **variables)
    run, table = found.stdout.splitlines()
    assert "vision.eval --run_eagerly=1 --quant_precision=fp16 " in run
    assert table.endswith(f" {tmp_path}/o/eager_fp16_bsz_4.json")


@pytest.mark.parametrize(
    "words",
    [
        ["-b", "2,3", "-p", "fp32", "-e", "1", "--net_name", "vision", "--x", "1"],
        ["--net_name", "vision", "--x", "1", "-b2,3", "-pfp32", "-e1"],
        ["--x", "1", "-e", "1", "--net_name=vision", "-p", "fp32", "-b", "2,3"],
    ],
)
def test_flags_come_in_any_order(start, tmp_path, words):
    found = start("multi_infer_run.sh", *words, INFER_CKPT="/m", OUTPUT_DIR=str(tmp_path))
    *runs, table = found.stdout.splitlines()
    assert len(runs) == 2
    for size, run in zip((2, 3), runs, strict=True):
        assert "vision.eval --run_eagerly=1 --quant_precision=fp32 " in run
        assert f"--batch_size {size} " in run and run.endswith(" --x 1")
    reports = " ".join(f"{tmp_path}/eager_fp32_bsz_{size}.json" for size in (2, 3))
    assert table.endswith(reports)


@pytest.mark.parametrize(
    "words",
    [
        ["--batch_size=2"],
        ["-b"],
        ["-x"],
        ["--run_eagerly"],
        ["--norun_eagerly"],
        ["--result_path", "/r"],
    ],
)
def test_what_would_make_reports_untrue_to_their_names_is_refused(start, tmp_path, words):
    found = start("multi_infer_run.sh", "--net_name", "vision", *words, OUTPUT_DIR=str(tmp_path))
    assert (found.returncode, found.stdout) == (2, "")
    assert "Expected -b" in found.stderr or "usage:" in found.stderr


def test_a_family_that_is_none_is_one_line(start):
    for script in ("infer_run.sh", "multi_infer_run.sh"):
        found = start(script, "--net_name", "wav2vec3")
        assert found.returncode == 2
        # The program has the list of families; the one here tells how it was called.
        assert "[--net_name python -m tools.cli.list_families]" in found.stderr


def test_reports_of_conversions_do_not_stay(start, tmp_path):
    """Neither their time nor their answers belong into the table."""
    for name in (".converting.json", ".converting.tsv", "kept.json"):
        (tmp_path / name).touch()
    found = start("multi_infer_run.sh", "-b", "2", "-p", "fp32", OUTPUT_DIR=str(tmp_path))
    eager, converting, jit, table = found.stdout.splitlines()
    assert f"--result_path {tmp_path}/eager_fp32_bsz_2.json" in eager
    assert f"--result_path {tmp_path}/.converting.json" in converting
    assert converting.endswith("--data_ratio 0.000001 --warmup_count 0")
    assert jit.endswith(f"--result_path {tmp_path}/jit_fp32_bsz_2.json")
    assert ".converting" not in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.json"]


def test_a_run_that_fails_ends_the_table_with_its_code(start, clone, tmp_path):
    (clone / "bin" / "python").write_text("#!/bin/sh\necho called\nexit 7\n")
    try:
        found = start("multi_infer_run.sh", "-b", "1", OUTPUT_DIR=str(tmp_path))
        assert (found.returncode, found.stdout) == (7, "called\n")
        for mode in ("eager", "jit"):
            assert start(f"infer_run_{mode}_fp32_bsz_4.sh").returncode == 7
    finally:
        (clone / "bin" / "python").write_text(TELL)


def make_splits(root, *splits):
    for split in splits:
        folder = root / split / "1" / "2"
        folder.mkdir(parents=True)
        (folder / "1-2.trans.txt").touch()
    (root / "README.TXT").touch()
    return str(root)


def data_dir(told):
    (found,) = re.findall(r" --data_dir (\S+) ", told)
    return found


def test_one_split_of_a_corpus_is_read(start, tmp_path):
    corpus = make_splits(tmp_path / "corpus", "dev-clean", "test-clean", "train-clean-100")
    for variables, expected in (
        ({}, f"{corpus}/test-clean"),
        ({"SPLIT": "dev-clean"}, f"{corpus}/dev-clean"),
        ({"DATA_DIR": f"{corpus}/train-clean-100"}, f"{corpus}/train-clean-100"),
        ({"DATA_DIR": "/nowhere"}, "/nowhere"),
    ):
        for script in ("infer_run.sh", "infer_run_jit_fp32_bsz_4.sh"):
            assert data_dir(start(script, **{"DATA_DIR": corpus} | variables).stdout) == expected
    assert " --data_dir /own" in start("infer_run.sh", "--data_dir", "/own", DATA_DIR=corpus).stdout


@pytest.mark.parametrize("variables", [{}, {"SPLIT": "test-other"}])
def test_a_split_that_is_missing_names_those_present(start, tmp_path, variables):
    corpus = make_splits(tmp_path, "train-clean", "dev-clean")
    found = start("infer_run.sh", DATA_DIR=corpus, **variables)
    assert (found.returncode, found.stdout) == (2, "")
    split = variables.get("SPLIT", "test-clean")
    assert f"the split {split} in {corpus}. Received: dev-clean train-clean." in found.stderr


@pytest.mark.parametrize(
    ("net", "variable"), [("conformer", "DATA_DIR"), ("vision", "IMAGENET_DIR")]
)
def test_a_missing_default_data_set_names_its_variable(start, clone, net, variable):
    start_with = {variable: f"{clone}/data/none", "INFER_CKPT": "/m"}
    found = start("infer_run.sh", "--net_name", net, **start_with)
    assert (found.returncode, found.stdout) == (2, "")
    assert f"Error: Expected a data set in {variable}. Received: {clone}/data/none" in found.stderr
    found = start("infer_run.sh", "--net_name", net, "--data_dir", "/own", **start_with)
    assert " --data_dir /own" in found.stdout


def test_the_name_of_the_page_and_the_bundled_model(start):
    found = start("infer_run.sh", "--net_name", "Conformer", "--top_k=5")
    assert "python -m conformer.infer " in found.stdout and found.stdout.endswith(" --top_k=5\n")
    assert "ten digits only" in found.stderr
    assert "ten digits" not in start("infer_run.sh", INFER_CKPT="/m").stderr
    assert "ten digits" not in start("infer_run.sh", "--net_name=vision").stderr


@pytest.mark.parametrize(
    ("kind", "flags", "name"),
    [
        ("Float32", "--run_eagerly=1 --quant_precision=fp32", "test_32"),
        ("AMP", "--run_eagerly=0 --quant_precision=fp16", "test_32_amp"),
    ],
)
def test_the_evaluations_of_the_original(start, kind, flags, name):
    told = start(f"Infer_Conformer_{kind}_1GPU.sh", DATA_DIR="/d", INFER_CKPT="/m").stdout
    model = "--native_savedmodel_dir /m"
    data = "--data_dir /d --batch_size 32"
    assert told == f"python -m conformer.infer {flags} {data} {model} --result_path {name}.json\n"
