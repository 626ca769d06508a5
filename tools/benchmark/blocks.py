"""Runs commands of Markdown pages in a folder that has the project and data under their names."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
_MADE_HERE = {"data", "runs", ".git"}
_SHELLS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


def link_project(folder: Path) -> None:
    """Links everything of the checkout into a folder, except what programs write there."""
    for entry in PROJECT.iterdir():
        if entry.name not in _MADE_HERE:
            (folder / entry.name).symlink_to(entry)


def run_text(
    text: str, folder: Path, language: str = "bash", variables: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Runs a command or a Python program in a folder of `link_project`.

    Args:
        text: commands of bash, of which the first that fails ends the run, or Python code.
        folder: current folder of the process, from which it imports the project.
        language: "bash" or "python".
        variables: environment variables to add.

    Returns:
        The exit code, and what was written to stdout and stderr.
    """
    binaries = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    done = subprocess.run(
        [*_SHELLS[language], text],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PATH": binaries} | dict(variables or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return done.returncode, done.stdout
