"""Scripts in a copy of the project whose programs are made up."""

import os
import subprocess

import pytest


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
