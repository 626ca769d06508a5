"""The tables of docs/from_the_originals.md: each line parses, exists or is answered."""

import importlib
import re
import shlex
from collections import Counter

import pytest

from tests.docs import originals
from tests.support.errors import refused
from tools.benchmark import markdown
from tools.config.command_line import CommandLine
from tools.config.originals import PROGRAMS

VENDORS = ("MLU", "Ascend", "MindSpore")
NOT_READ = (
    "traced.pth",
    "conformer_tiny.ckpt",
)  # their answers have tests of their own


class Parsed(Exception):
    """The program has read its flags."""


@pytest.fixture(scope="module")
def page(project):
    return (project / "docs" / "from_the_originals.md").read_text("utf-8")


@pytest.fixture(scope="module")
def table(page):
    rows = [row for row in markdown.rows(page) if row != ["original", "here", "state"]]
    assert all(len(row) == 3 for row in rows)
    return rows


@pytest.fixture
def parse(monkeypatch):
    """Lets a program read its flags and do nothing else."""
    whole = CommandLine.parse

    def stop(line, argv):
        whole(line, argv)
        raise Parsed

    def parse(command):
        with monkeypatch.context() as patch:
            patch.setattr(CommandLine, "parse", stop)
            call(command)

    return parse


def call(command):
    _, _, module, *words = shlex.split(command)
    importlib.import_module(module).main(words)


def test_the_page_counts_its_rows(page, table):
    counts = Counter(state for *_, state in table)
    assert counts.keys() <= {"works", "answered", "open"}
    sentence = "The four tables have {} rows: {} work, {} are answered, {} are open."
    numbers = (len(table), counts["works"], counts["answered"], counts["open"])
    assert sentence.format(*numbers) in page


def test_every_command_parses_or_is_answered(table, parse, project):
    for original, here, state in table:
        codes = re.findall(r"`([^`]+)`", here)
        commands = [x for x in codes if x.startswith("python -m ")]
        if state == "works":
            for command in commands:
                with pytest.raises(Parsed):
                    parse(command)
            for script in (x.split()[1] for x in codes if x.startswith("bash ")):
                assert (project / script).is_file(), original
            assert codes or "not needed" in here or "programs above" in here, original
        elif state == "answered" and commands:
            for command in commands:
                with refused():
                    call(command)
        elif state == "answered":
            links = [x for x in codes if (project / x).is_symlink()]
            assert links or any(x in here for x in (*VENDORS, *NOT_READ)), original
            assert {x.rpartition("/")[2] for x in links} <= PROGRAMS.keys()


def test_the_long_form_refuses_a_part_that_is_in_no_row(capsys):
    assert originals.main(["--mxp", "no such row"]) == 2
    assert "Received: no such row. " in capsys.readouterr().out
    assert originals.main(["--help"]) == 0
    assert "[PART_OF_A_ROW_OR_HEADING ...]" in capsys.readouterr().out


def test_every_old_name_is_in_a_table(table):
    cells = " ".join(original + here for original, here, _ in table)
    assert [name for name in PROGRAMS if name not in cells] == []
