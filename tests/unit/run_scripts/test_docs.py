"""docs.sh, the settings of the site in docs/reference, and the pages of the API reference."""

import importlib
import importlib.util
import re
import runpy
import shutil
import subprocess
import sys

import pytest

from tools.families import FAMILIES

LIBRARIES = "config conversion decoding inference layers".split()
LIBRARIES += "recognition serving speech training weights".split()


class Site:
    """Takes what `setup` registers with Sphinx."""

    def __init__(self):
        self.handlers = {}

    def connect(self, event, handler, priority=500):
        self.handlers[event] = handler

    def emit(self, event, *arguments):
        return self.handlers[event](self, *arguments)


@pytest.fixture
def pages(project, tmp_path):
    """A checkout with three pages, a model card and the settings of the site."""
    for page in "docs/zebra docs/train docs/install vision/pretrained/photos/MODEL_CARD".split():
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{page}.md").write_text("# A page\n")
    shutil.copytree(project / "docs" / "reference", tmp_path / "docs" / "reference")
    return tmp_path


@pytest.fixture
def site(pages, monkeypatch):
    """What the settings register; the families' names are imported on first use afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = Site()
    runpy.run_path(str(pages / "docs" / "reference" / "conf.py"))["setup"](made)
    yield made
    for family in FAMILIES:
        module = importlib.import_module(family)
        for name in module.__all__:
            vars(module).pop(name)


def test_the_script_sets_up_and_builds_where_warnings_are_errors(make_clone, run_script, tell):
    clone = make_clone("docs.sh", python=tell)
    (clone / "run_scripts" / "setup.sh").write_text('echo "setup $*"\n')
    (clone / "build" / "docs").mkdir(parents=True)
    found = run_script(clone, "docs.sh", ["--fresh-env"])
    setup, sphinx, last = found.stdout.splitlines()
    assert found.returncode == 0 and setup == "setup --docs"
    assert sphinx.startswith("[python][-m][sphinx]")
    assert "[--fail-on-warning]" in sphinx and sphinx.endswith("[--fresh-env][.][build/docs]")
    assert last.endswith(f"{clone}/build/docs/index.html")
    assert "README.html" in (clone / "build" / "docs" / "index.html").read_text()


@pytest.mark.parametrize("broken", ["setup.sh", "python"])
def test_the_script_ends_with_the_first_step_that_fails(make_clone, run_script, broken):
    code = 2 if broken == "python" else 0
    clone = make_clone("docs.sh", python=f"#!/bin/sh\nexit {code}\n")
    (clone / "run_scripts" / "setup.sh").write_text(f"exit {2 - code}\n")
    found = run_script(clone, "docs.sh", [])
    assert found.returncode == 2
    assert not (clone / "build").exists() and "site" not in found.stdout


def test_the_reference_has_pages_for_all_families_and_libraries(project):
    pages = {x.stem: x.read_text() for x in (project / "docs" / "reference").glob("*.md")}
    assert pages.keys() == {*FAMILIES, "tools", *(f"tools_{name}" for name in LIBRARIES)}
    libraries = {x.parent.name for x in project.glob("tools/*/__init__.py")}
    assert libraries - {"cli", "benchmark"} == set(LIBRARIES)
    for name, text in pages.items():
        modules = re.findall(r"automodule:: (\S+)", text)
        assert modules and all(x.startswith(name.replace("_", ".")) for x in modules)
        assert all(importlib.util.find_spec(x) for x in modules)
        headings = re.findall(r"^#+ (\S+)$", text, flags=re.MULTILINE)
        assert headings[-len(modules) :] == modules
        assert (":imported-members:" in text) == (name in FAMILIES)


def test_the_contents_list_every_page(pages, site):
    source = ["# Front page"]
    site.emit("source-read", "README", source)
    front, guide, cards, reference, development = source[0].split("\n\n```{toctree}\n")
    assert front == "# Front page"

    def listed(part):
        return part.removesuffix("\n```").partition("\n\n")[2].splitlines()

    assert listed(guide) == ["docs/install", "docs/train", "docs/zebra"]
    assert listed(cards) == ["photos <vision/pretrained/photos/MODEL_CARD>"]
    expected = sorted(x.stem for x in pages.glob("docs/reference/*.md"))
    assert listed(reference) == [f"docs/reference/{name}" for name in expected]
    assert listed(development) == ["CONTRIBUTING", "CHANGELOG"]
    other = ["# Other"]
    site.emit("source-read", "docs/other", other)
    assert other == ["# Other"]


def test_markdown_in_docstrings_becomes_restructured_text(site):
    lines = ["Text of `f`s and `g`.", "", "  | a | b |", "  |---|---|", "  | 1 | `x` |", "", "End."]
    site.emit("autodoc-process-docstring", "module", "m", None, None, lines)
    assert lines[0] == "Text of `f`\\ s and `g`."
    table = ["  ::", "", "      | a | b |", "      |---|---|", "      | 1 | `x` |", "", ""]
    assert lines[2:] == [*table, "End."]


def test_fields_of_named_tuples_are_left_out(site):
    class Field:
        """Alias for field number 0"""

    assert site.emit("autodoc-skip-member", "class", "x", Field, False, None) is True
    assert site.emit("autodoc-skip-member", "class", "x", Site, False, None) is None


@pytest.mark.parametrize(
    ("signature", "shown"), [("(*args, **kwargs)", ("", None)), ("(a, *args, **kwargs)", None)]
)
def test_signatures_that_say_nothing_are_left_out(site, signature, shown):
    arguments = "class", "x", Site, None, signature, None
    assert site.emit("autodoc-process-signature", *arguments) == shown


def test_the_reference_is_built_without_warnings(project, tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    command = "-m sphinx --builder dummy --fail-on-warning --keep-going --quiet --conf-dir"
    built = subprocess.run(
        [sys.executable, *command.split(), "docs/reference", ".", str(tmp_path)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
