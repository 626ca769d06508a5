"""Programs run the code of their own checkout, or say in one line which other one is in the way."""

import os
import shutil
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def other(project, tmp_path_factory):
    """A second checkout of the parts that the test reads, told apart by its help text."""
    root = tmp_path_factory.mktemp("second") / "checkout"
    for package in ("conformer", "tools"):
        ignored = shutil.ignore_patterns("pretrained", "__pycache__")
        shutil.copytree(project / package, root / package, ignore=ignored)
    flags = root / "tools" / "inference" / "flags.py"
    flags.write_text(flags.read_text().replace("SavedModel to run.", "SavedModel of the second."))
    return root


def start(*words, cwd, path=""):
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_program_started_as_a_file_runs_its_own_checkout(project, other, tmp_path):
    """Although the first checkout comes first on the path."""
    second = start(other / "conformer" / "infer.py", "--help", cwd=tmp_path, path=project)
    assert (second.returncode, second.stderr) == (0, "")
    assert "SavedModel of the second." in second.stdout
    first = start(project / "conformer" / "infer.py", "--help", cwd=other, path=other)
    assert "SavedModel to run." in first.stdout


def test_a_program_of_tools_refuses_to_run_on_another_checkout(project, other, tmp_path):
    program = other / "tools" / "cli" / "list_families.py"
    mixed = start(program, cwd=tmp_path, path=project)
    assert (mixed.returncode, mixed.stdout) == (2, "")
    assert mixed.stderr == (
        f"Error: Expected a program of {project / 'tools'}, which Python finds. "
        f"Received: {program}. Run python -m tools.cli.list_families in {other}.\n"
    )
    for words in ((program,), ("-m", "tools.cli.list_families")):
        own = start(*words, cwd=other, path=other)
        assert (own.returncode, own.stderr) == (0, "")


def test_a_package_of_the_name_tools_in_the_way_is_named_in_one_line(project, tmp_path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").touch()
    result = start("-m", "conformer.infer", "--help", cwd=tmp_path, path=project)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: Expected the package tools in ")
    assert str(tmp_path / "tools") in result.stderr
    assert result.stderr.count("\n") == 1
    imported = start("-c", "import conformer", cwd=tmp_path, path=project)
    assert imported.returncode == 1
    assert imported.stderr.splitlines()[-1].startswith("ImportError: Expected the package tools")


def test_a_checkout_may_be_found_by_a_link(project, tmp_path):
    (tmp_path / "link").symlink_to(project, target_is_directory=True)
    result = start(
        "-c", "import tools.checkout; print('found')", cwd=tmp_path, path=tmp_path / "link"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "found\n", "")
