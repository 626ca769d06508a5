"""Scripts in a copy of the project whose programs are made up."""

import os
import shutil
import subprocess

import pytest

# Tells its name and its arguments, each in brackets, on one line.
TELL = """#!/bin/bash
printf '[%s]' "${0##*/}" "$@"
echo
"""


@pytest.fixture(scope="session")
def run_script():
    """Runs a script of a copy, with the programs of its folder `bin` in front of all others."""

    def run(clone, script, arguments, **variables):
        return subprocess.run(
            ["bash", str(clone / "run_scripts" / script), *arguments],
            env={"PATH": f"{clone / 'bin'}:{os.environ['PATH']}", **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def make_clone(project, tmp_path_factory):
    """Copies scripts, without an environment that would come before the made-up programs."""

    def make(pattern, **programs):
        """Takes a pattern of scripts, and texts of programs by name."""
        root = tmp_path_factory.mktemp("clone")
        for folder in ("run_scripts", "bin"):
            (root / folder).mkdir()
        shutil.copy(project / "env.sh", root)
        own = (project / "run_scripts" / name for name in ("help.sh", "flags.sh"))
        for path in {*own, *project.glob(f"run_scripts/{pattern}")}:
            shutil.copy(path, root / "run_scripts")
        for name, text in programs.items():
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)
        return root

    return make


@pytest.fixture(scope="session")
def told():
    """Writes a call as the made-up programs tell it."""
    return lambda *words: "".join(f"[{word}]" for word in words) + "\n"


@pytest.fixture(scope="session")
def tell():
    """The text of a program that tells how it was called."""
    return TELL
