"""--help of all run scripts: prints the usage and starts no program."""

import os

import pytest

from tests.conftest import PROJECT

FOLDER = PROJECT / "run_scripts"
# Old names are links to this script, which only prints the command that replaces them.
RENAMED = (FOLDER / "renamed.sh").read_text()
FOUND = {path.name for path in FOLDER.glob("*.sh") if path.read_text() != RENAMED}
SCRIPTS = sorted(FOUND - {"flags.sh"})  # only sourced
STARTED = "#!/bin/sh\necho started >&2\n"


@pytest.fixture(scope="module")
def clone(make_clone):
    """Copies of the scripts, with programs that print that they were started."""
    programs = ("python", "python3", "python3.11", "horovodrun", "docker", "nvidia-smi", "tar")
    return make_clone("*.sh", **dict.fromkeys(programs, STARTED))


def test_the_scripts_are_found():
    assert {"setup.sh", "multi_infer_run.sh", "train_with_horovod.sh"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("arguments", [["--help"], ["data", "-b", "4", "-h"]])
def test_help_is_the_usage_and_starts_nothing(clone, run_script, script, arguments):
    before = sorted(os.walk(clone))
    found = run_script(clone, script, arguments, NP="0")
    assert (found.returncode, found.stderr) == (0, "")
    comment = (clone / "run_scripts" / script).read_text().splitlines()[1]
    assert found.stdout.splitlines()[0] == comment.removeprefix("# ")
    assert "\n#" not in found.stdout and "shellcheck" not in found.stdout
    if script != "help.sh":
        assert f"  bash {script}" in found.stdout
    assert sorted(os.walk(clone)) == before
