import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from tests.support.errors import refused
from tools import launcher
from tools.config import command_line
from tools.config.command_line import CommandLine, run
from tools.errors import UserError


@pytest.fixture
def program() -> CommandLine:
    line = CommandLine(
        "family.train", "Trains a model.", "[FLAGS] [FILE...]", example="--rate=1 a.wav"
    )
    line.string("config", None, "Configuration.", default_text="configs/a.yml")
    line.string("output_dir", "", "Where the run goes.")
    line.integer("batch_size", None, "Utterances of one process.", short_name="b")
    line.number("rate", 0.5, "A rate.")
    line.boolean("use_horovod", None, "Several processes.", default_text="found out")
    line.boolean("skip_eval", False, "No evaluation.")
    line.enum("mode", "fast", ["fast", "slow"], "How.")
    line.multi_string("tag", [], "Tags.")
    line.settings()
    return line


def failure(program: CommandLine, *argv: str) -> str:
    with refused("Received: ") as caught:
        program.parse(argv)
    assert str(caught.value).startswith("Expected ")
    return str(caught.value)


def test_defaults_say_that_nothing_was_given(program):
    values, positional = program.parse([])
    assert vars(values) == {
        "config": None,
        "output_dir": "",
        "batch_size": None,
        "rate": 0.5,
        "use_horovod": None,
        "skip_eval": False,
        "mode": "fast",
        "tag": [],
        "set": {},
    }
    assert positional == []


def test_values_and_positional_arguments_in_any_order(program):
    argv = [
        "a.wav",
        "--batch_size",
        "3",
        "--rate=1e-3",
        "b.wav",
        "--mode",
        "slow",
        "--tag",
        "x",
        "--tag=y",
        "--",
        "--c.wav",
    ]
    values, positional = program.parse(argv)
    assert (values.batch_size, values.rate, values.mode, values.tag) == (
        3,
        1e-3,
        "slow",
        ["x", "y"],
    )
    assert positional == ["a.wav", "b.wav", "--c.wav"]


def test_the_home_folder_is_put_in_where_a_shell_does_not(program, monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    argv = ["--output_dir=~/runs", "--tag=~/a", "--tag=b", "~/c.wav", "--set", "data.dir=~/d"]
    values, positional = program.parse(argv)
    assert (values.output_dir, values.tag) == ("/somewhere/runs", ["/somewhere/a", "b"])
    assert positional == ["/somewhere/c.wav"]
    assert values.set == {"data.dir": "~/d"}  # for the loader of the config


def test_short_name(program):
    assert program.parse(["-b", "16"])[0].batch_size == 16


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--use_horovod"], True),
        (["--nouse_horovod"], False),
        (["--use_horovod=True"], True),
        (["--use_horovod=0"], False),
        (["--use_horovod=1"], True),
        (["--use_horovod", "False"], False),
        (["--use_horovod", "true"], True),
    ],
)
def test_booleans(program, argv, expected):
    values, positional = program.parse(argv)
    assert values.use_horovod is expected
    assert positional == []


def test_a_word_after_a_boolean_stays_positional(program):
    values, positional = program.parse(["--skip_eval", "a.wav", "--config", "true", "--", "true"])
    assert values.skip_eval is True and values.config == "true"
    assert positional == ["a.wav", "true"]


def test_parsing_again_starts_afresh(program):
    assert program.parse(["--batch_size=2", "--tag=x", "--set=a.b=1"])[0].batch_size == 2
    values, _ = program.parse([])
    assert values.batch_size is None and values.tag == [] and values.set == {}


def test_two_programs_share_nothing_and_absl_stays_clean():
    before = set(flags.FLAGS)
    one, two = CommandLine("one", "One."), CommandLine("two", "Two.")
    one.integer("batch_size", 1, "Size.")
    two.string("batch_size", "x", "Size.")
    assert one.parse([])[0].batch_size == 1 and two.parse([])[0].batch_size == "x"
    assert set(flags.FLAGS) == before


def test_settings(program):
    argv = ["--set", "model.num_layers=3", "--set=data.data_dir=a=b c", "--set", "x.y="]
    assert program.parse(argv)[0].set == {
        "model.num_layers": "3",
        "data.data_dir": "a=b c",
        "x.y": "",
    }
    assert program.parse(["--set", "a.b=1", "--set", "a.b=2"])[0].set == {"a.b": "2"}


@pytest.mark.parametrize("word", ["model.num_layers", "=3", "", " =3"])
def test_malformed_settings(program, word):
    assert "section.key=value" in failure(program, "--set", word)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--batchsize=3"], ["--batchsize", "Use --batch_size", "family.train"]),
        (["--batch-size", "3"], ["--batch-size", "Use --batch_size"]),
        (["--zzzz"], ["--zzzz", "See --help"]),
        (["--batch_size=many"], ["a whole number", "--batch_size", "many"]),
        (["--batch_size=1.5"], ["a whole number", "--batch_size", "1.5"]),
        (["-b", "many"], ["a whole number", "many"]),
        (["--batch_size"], ["a value after --batch_size"]),
        (["--rate=fast"], ["a number", "--rate", "fast"]),
        (["--use_horovod=maybe"], ["true or false", "--use_horovod", "maybe"]),
        (["--nouse_horovod=1"], ["--nouse_horovod"]),
        (["--mode=medium"], ["fast, slow", "--mode", "medium"]),
        (["--flagfile=/no/such"], ["/no/such"]),
    ],
)
def test_bad_flags_are_one_sentence(program, argv, words):
    message = failure(program, *argv)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["a.wav", "--batch_size=2", "--help"]])
def test_help_shows_every_flag_with_its_default(program, capsys, argv):
    with pytest.raises(SystemExit) as caught:
        program.parse(argv)
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert text.startswith("Trains a model.\n\nExample: python -m family.train --rate=1 a.wav\n")
    assert "\nUsage: python -m family.train [FLAGS] [FILE...]\n" in text
    for flag in (
        "--config=string",
        "--batch_size=int, -b",
        "--[no]use_horovod",
        "--mode=fast|slow",
    ):
        assert flag in text
    for line in (
        "Configuration. Default: configs/a.yml.",
        'Where the run goes. Default: "".',
        "Utterances of one process. Default: from the config.",
        "A rate. Default: 0.5.",
        "Several processes. Default: found out.",
        "No evaluation. Default: False.",
        "How. Default: fast.",
    ):
        assert f"      {line}\n" in text


def test_help_groups_flags_under_headings_in_one_order():
    line = CommandLine("toy", "Toys.", example="")
    line.group("Training")
    line.integer("epochs", 1, "Passes.")
    line.group("Input")
    line.string("data_dir", None, "Data.", default_text=command_line.REQUIRED)
    line.group("Training")
    line.string("mode", "a", "How.", kind_text="a|b")
    lines = [x for x in line.help_text().splitlines() if x]
    assert lines == [
        "Toys.",
        "Example: python -m toy",
        "Usage: python -m toy [FLAGS]",
        "Input:",
        "  --data_dir=string",
        "      Data. Required.",
        "Training:",
        "  --epochs=int",
        "      Passes. Default: 1.",
        "  --mode=a|b",
        "      How. Default: a.",
        "Help:",
        "  --help, -h",
        "      Shows this text and exits.",
    ]
    with pytest.raises(ValueError, match="Trainings"):
        line.group("Trainings")


def test_long_help_is_wrapped_between_words():
    line = CommandLine("toy", "Toys.")
    about = " ".join(["half-times"] * 40)
    line.string("mode", None, about)
    text = line.help_text()
    assert max(map(len, text.splitlines())) <= 100
    assert f"{about} Default: none." in " ".join(text.split())
    assert "Example" not in text


def test_without_a_config_nothing_comes_from_one():
    line = CommandLine("convert", "Converts a model.")
    line.string("model", None, "SavedModel.")
    assert "SavedModel. Default: none." in line.help_text()


def exit_code(main, argv=("program",)) -> object:
    with pytest.raises(SystemExit) as caught:
        run(main, argv)
    return caught.value.code


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_run_passes_arguments_and_exit_code(returned, code):
    seen = []

    def main(argv):
        seen.extend(argv)
        return returned

    assert exit_code(main, ["program", "a", "--b"]) == code
    assert seen == ["a", "--b"]


def test_run_reports_user_errors_on_one_line(capsys):
    def main(argv):
        raise UserError("Expected a  file.\nReceived: a\r\nb\u2028c. Do it.")

    assert exit_code(main) == 2
    captured = capsys.readouterr()
    assert captured.err == "Error: Expected a  file. Received: a b c. Do it.\n"
    assert captured.out == ""


def test_run_reports_a_path_that_the_system_refuses_on_one_line(tmp_path, capsys):
    path = tmp_path / f"a\n{'a' * 300}"
    assert exit_code(lambda _: path.stat()) == 2
    shown = str(path).replace("\n", "\\n")
    received = f"Received: {shown}: File name too long. Check the path and its permissions.\n"
    assert capsys.readouterr().err == f"Error: Expected a usable path. {received}"

    def main(argv):
        raise OSError("not about a path")

    with pytest.raises(OSError, match="not about a path"):
        run(main, ["program"])


def test_run_on_interrupt(capsys):
    def main(argv):
        raise KeyboardInterrupt

    assert exit_code(main) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_run_leaves_bugs_alone():
    def main(argv):
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        run(main, ["program"])


def test_run_takes_the_arguments_of_the_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "x"])
    assert exit_code(len, None) == 1


def test_a_reader_that_leaves_ends_the_program_quietly():
    code = (
        "from tools.config.command_line import run\n"
        "def main(argv):\n"
        "    for index in range(100_000):\n"
        "        print(index)\n"
        "run(main)\n"
    )
    root = Path(command_line.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    process.stdout.readline()
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_file_name_that_is_no_utf_8_is_printed_as_it_is():
    code = "import sys; from tools.config.command_line import run; run(lambda a: print(a[0]))"
    result = subprocess.run(
        [sys.executable, "-c", code, b"\xff.wav"],
        capture_output=True,
        cwd=Path(command_line.__file__).parents[2],
        check=True,
    )
    assert (result.stdout, result.stderr) == (b"\xff.wav\n", b"")


def test_true_and_false_behind_anything_but_a_switch_are_words(program):
    values, positional = program.parse(["a.wav", "true", "--skip_eval", "--config", "false", "no"])
    assert positional == ["a.wav", "true", "no"]
    assert (values.skip_eval, values.config) == (True, "false")
    values, positional = program.parse(["--skip_eval", "False", "true"])
    assert (values.skip_eval, positional) == (False, ["true"])
    assert program.parse(["true"])[1] == ["true"]


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["--config="],
            "a value for --config. Received: an empty one. Give one, or leave --config",
        ),
        (["--config", ""], "a value for --config. Received: an empty one."),
        (["--batch_size="], "a whole number for --batch_size. Received: an empty value."),
        (["--mode="], "one of fast, slow for --mode. Received: an empty value."),
        (["--use_horovod="], "true or false for --use_horovod. Received: an empty value."),
    ],
)
def test_empty_values_are_refused(program, argv, line):
    assert line in failure(program, *argv)


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["-b=2", "--batch_size=4"], "--batch_size once. Received: it twice, as 2 and 4."),
        (["--mode=slow", "--mode", "fast"], "--mode once. Received: it twice, as slow and fast."),
        (["--use_horovod", "--nouse_horovod"], "--use_horovod once. Received: it twice, as True"),
        (
            ["--config=a: b", "--config=c: d"],
            "--config once. Received: it twice, as a: b and c: d.",
        ),
    ],
)
def test_a_flag_that_is_given_twice_is_refused(program, argv, line):
    assert line in failure(program, *argv)


def test_flags_that_may_be_repeated(program):
    argv = ["--tag=a", "--tag=b", "--set", "a.b=1", "--set", "a.c=1", "--batch_size=2"]
    values, _ = program.parse(argv)
    assert (values.tag, values.set) == (["a", "b"], {"a.b": "1", "a.c": "1"})


@pytest.mark.parametrize("argv", [["--batch=2"], ["--batch_size=x"], ["a.wav"]])
def test_the_first_rank_prints_an_error_that_all_ranks_find(program, monkeypatch, argv):
    waits = []
    monkeypatch.setattr(launcher.time, "sleep", waits.append)
    for variable, rank, expected in (
        ("OMPI_COMM_WORLD_RANK", "0", []),
        ("HOROVOD_RANK", "1", [60.0]),
        ("PMI_RANK", "2", [60.0]),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(variable, rank)
            with pytest.raises(UserError):
                program.parse_flags(argv)
        assert waits == expected
        waits.clear()


def test_renamed_flags_are_named_by_one_rank(monkeypatch, capsys):
    line = CommandLine("conformer.infer", "Runs.")
    line.string("result_path", None, "Report.")
    for rank, printed in (("0", "--output is now --result_path\n"), ("1", "")):
        monkeypatch.setenv("HOROVOD_RANK", rank)
        assert line.parse(["--output=a"])[0].result_path == "a"
        assert capsys.readouterr().err == printed


def test_a_flag_that_is_empty_by_default_may_be_empty(program):
    assert program.parse(["--output_dir="])[0].output_dir == ""
