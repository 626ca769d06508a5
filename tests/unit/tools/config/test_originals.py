"""Flags and programs of the original pages: what is accepted, and what is answered."""

import importlib
import re
import subprocess
import sys

import pytest

import vision
from tests.support.errors import refused
from tools.config.command_line import CommandLine
from tools.config.originals import CONFIGS, FLAGS, OWN_FLAGS, PROGRAMS, Renamed, program_answer
from tools.config.similar import similar_name


def flags_of(module, capsys):
    """The flags of a program, as its --help shows them."""
    with pytest.raises(SystemExit):
        importlib.import_module(module).main(["--help"])
    return set(re.findall(r"^  --(?:\[no\])?(\w+)", capsys.readouterr().out, flags=re.MULTILINE))


def program(module):
    line = CommandLine(module, "Runs.")
    line.string("native_savedmodel_dir", None, "Model.")
    line.string("result_path", None, "Report.")
    line.integer("seed", 0, "Seed.")
    line.integer("threads", None, "Threads.")
    line.settings()
    return line


@pytest.mark.parametrize("module", sorted({*FLAGS, *OWN_FLAGS}))
def test_the_table_fits_the_programs(module, capsys):
    """New names and own flags are flags of the program; old names are not."""
    flags = flags_of(module, capsys)
    assert flags.issuperset(OWN_FLAGS.get(module, ()))
    for name, rule in FLAGS.get(module, {}).items():
        assert name not in flags
        if isinstance(rule, Renamed):
            assert ("set" if "." in rule.new else rule.new) in flags


@pytest.mark.parametrize(
    "argv, name, value",
    [
        (["--saved=a"], "native_savedmodel_dir", "a"),
        (["--saved", "a"], "native_savedmodel_dir", "a"),
        (["--output", "r.tsv", "--seed=3"], "result_path", "r.tsv"),
        (["--private_threadpool_size=4"], "threads", 4),
    ],
)
def test_a_renamed_flag_is_accepted_with_one_line(argv, name, value, capsys):
    values, rest = program("conformer.infer").parse(argv)
    assert (getattr(values, name), rest) == (value, [])
    assert capsys.readouterr().err == f"{argv[0].partition('=')[0]} is now --{name}\n"


@pytest.mark.parametrize(
    "argv", [["--private_threadpool_size=4"], ["--private_threadpool_size", "4"]]
)
def test_a_flag_that_became_a_value_of_the_config(argv, capsys):
    values, rest = program("conformer.train").parse([*argv, "--seed", "1", "--set=a.b=2"])
    assert values.set == {"data.num_parallel_calls": "4", "a.b": "2"}
    assert (values.seed, rest) == (1, [])
    assert "now --set data.num_parallel_calls" in capsys.readouterr().err


@pytest.mark.parametrize("joined", [True, False])
def test_the_flags_of_atc(joined, capsys):
    line = program("tools.cli.convert")
    line.string("converted_savedmodel_dir", None, "Folder.")
    line.string("dim_range", None, "Ranges.")
    pairs = (("model", "a.onnx"), ("framework", "5"), ("output", "a_bs8"),
             ("input_shape", "input:8,3,224,224"), ("log", "error"))  # fmt: skip
    argv = [f"--{name}={value}" for name, value in pairs]
    if not joined:
        argv = [word for name, value in pairs for word in (f"--{name}", value)]
    values, rest = line.parse(argv)
    assert (values.native_savedmodel_dir, values.converted_savedmodel_dir) == ("a.onnx", "a_bs8")
    assert (values.dim_range, rest) == ("input=8,3,224,224", [])
    assert len(capsys.readouterr().err.splitlines()) == len(pairs)


@pytest.mark.parametrize(
    "argv",
    [
        ["--num_workers=1"],
        ["--num_workers", "1"],
        ["--static_length=False"],
        ["--static_length", "false"],
        ["--nostatic_length"],
        ["--metadata", "x.json"],
        ["--subwords"],
        ["--subwords=True"],
        ["--nosubwords"],
        ["--tfrecords=0"],
        ["--spx=1"],
    ],
)
def test_flags_without_an_effect(argv, capsys):
    values, rest = program("conformer.train").parse([*argv, "--seed=5", "--", "--saved"])
    assert (values.seed, rest) == (5, ["--saved"])
    assert "has no effect: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "module, argv, do",
    [
        ("conformer.train", ["--num_workers=4"], "horovodrun -np N python -m conformer.train"),
        ("conformer.train", ["--tfrecords"], "unpack_tfrecords"),
        ("conformer.train", ["--tfrecords=True"], "unpack_tfrecords"),
        ("conformer.train", ["--sentence_piece", "true"], "tokenizer.kind=sentencepiece"),
        ("conformer.infer", ["--mxp"], "--quant_precision=fp16"),
        ("tools.cli.convert", ["--insert_op_conf=a.config"], "vision.preprocess"),
        # Flags of another program of the family, by today's and by the original's name.
        ("conformer.train", ["--saved", "x"], "python -m conformer.infer"),
        ("conformer.train", ["--quant_precision=fp16"], "python -m conformer.infer"),
        ("conformer.infer", ["--steps=3"], "python -m conformer.train"),
        ("conformer.infer", ["--num_workers=3"], "python -m conformer.train"),
        ("wav2vec2.preprocess", ["--torchscript_path=x"], "python -m wav2vec2.compile"),
        ("vision.infer", ["--epochs=5"], "python -m vision.train"),
        # Flags of another family, and words that only look alike.
        ("vision.train", ["--saved=x"], "See --help"),
        ("conformer.train", ["--sped=3"], "Use --seed"),
        ("conformer.train", ["--sawed=3"], "See --help"),
    ],
)
def test_other_flags_are_answered(module, argv, do):
    with refused(do) as caught:
        program(module).parse(argv)
    assert argv[0].partition("=")[0].lstrip("-") in str(caught.value)


def test_a_flag_that_the_program_has_is_its_own(capsys):
    line = program("conformer.infer")
    line.string("output", None, "Own.")
    assert line.parse(["--output=a"])[0].output == "a"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name, near",
    [
        ("batchsize", "batch_size"),
        ("batch-size", "batch_size"),
        ("output", "output_dir"),
        ("data", "data_dir"),
        ("my_output_dir", "output_dir"),
        ("see", "seed"),
        ("saved", None),
        ("size_of", None),
        ("lr", None),
    ],
)
def test_suggestions_are_near_in_meaning(name, near):
    assert (
        similar_name(name, ["batch_size", "data_dir", "data_ratio", "output_dir", "seed"]) == near
    )


def test_old_names_of_programs_are_links_that_answer(project):
    folders = ("conformer", "run_scripts", "run_scripts/ci", "vision", "wav2vec2")
    found = [path for folder in folders for path in (project / folder).iterdir()]
    links = {path.name: path for path in found if path.is_symlink()}
    assert links.keys() == PROGRAMS.keys()
    for name, path in links.items():
        assert path.resolve() == project / "run_scripts" / f"renamed{path.suffix}"
        new = PROGRAMS[name]
        if new.endswith(".sh"):
            assert (project / "run_scripts" / new).is_file()
        else:
            module = re.match(r"python -m ([\w.]+)", new)[1]
            assert (project / f"{module.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize(
    "command, answer",
    [
        (
            [sys.executable, "conformer_train.py", "--steps=1", "a b"],
            "conformer_train.py. Run python -m conformer.train --steps=1 'a b' instead.",
        ),
        (
            ["bash", "../run_scripts/Conformer_Float32_50E_1MLU.sh", "-x"],
            "Run bash ../run_scripts/Conformer_Float32_50E_1GPU.sh -x instead.",
        ),
    ],
)
def test_an_old_name_is_answered_with_the_command(project, command, answer):
    done = subprocess.run(command, cwd=project / "conformer", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: Expected") and done.stderr.endswith(f"{answer}\n")


@pytest.mark.parametrize(
    "name, answer",
    [
        ("conformer_tiny.yaml", "configs/vision/conformer_mindspore.yml."),
        ("conformer_base.yaml", "conformer_mindspore.yml with --arch=conformer_base."),
        ("other.yaml", "such as those in configs."),
    ],
)
def test_a_missing_config_of_an_original_is_answered(project, monkeypatch, name, answer):
    monkeypatch.chdir(project)
    with refused() as caught:
        vision.load_config(f"../src/configs/{name}")
    assert str(caught.value).endswith(answer)
    for file, flags in CONFIGS.values():
        words = dict(word.removeprefix("--").split("=") for word in flags.split())
        vision.load_config(f"configs/{file}", {f"model.{k}": v for k, v in words.items()})


def test_flags_for_classes_have_no_effect_on_a_recognizer(capsys):
    argv = ["--net_name=Conformer", "--top_k=5", "--imagenet_label_file=val.txt"]
    assert program("conformer.infer").parse(argv)[1] == []
    assert capsys.readouterr().err.count("has no effect") == len(argv)


def test_an_old_name_after_horovodrun_is_answered_with_the_whole_command(monkeypatch):
    monkeypatch.setenv("HOROVOD_SIZE", "8")
    answer = str(program_answer("conformer_train.py", ["--steps=1"]))
    assert answer.endswith("Run horovodrun -np 8 python -m conformer.train --steps=1 instead.")
    assert "horovodrun" not in str(program_answer("Conformer_Train_1MLU.sh", []))


@pytest.mark.parametrize("name", ["nothing.sh", "conformer_trian.py"])
def test_a_name_that_no_page_has_is_one_line(project, name):
    script = project / "run_scripts" / "renamed.py"
    done = subprocess.run([sys.executable, script, name], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: Expected an old name of a program or script. Received: ")
    assert done.stderr.count("\n") == 1 and name in done.stderr
