"""setup/chromium.sh with made-up programs: what it installs, and that it never fails."""

import shutil
import subprocess

import pytest

LEFT_OUT = "are left out: Chromium is not installed. Install it to run them.\n"
TOOLS = ("bash", "mktemp", "rm", "tail")


@pytest.fixture
def run_it(project, tmp_path):
    """Returns a function that runs the script with only these programs; they note their calls."""

    def run(user, **exit_codes):
        folder = tmp_path / "bin"
        folder.mkdir()
        for tool in TOOLS:
            (folder / tool).symlink_to(shutil.which(tool))
        texts = {"id": f"echo {user}"}
        for name, code in exit_codes.items():
            name = name.replace("_", "-")
            texts[name] = f'echo "{name} $*" >> {tmp_path}/calls; echo log; exit {code}'
        for name, text in texts.items():
            (folder / name).write_text(f"#!{shutil.which('bash')}\n{text}\n")
            (folder / name).chmod(0o755)
        script = project / "run_scripts" / "setup" / "chromium.sh"
        done = subprocess.run(
            [shutil.which("bash"), str(script)],
            env={"PATH": str(folder), "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_it_is_installed_by_root(run_it):
    done, calls = run_it(0, apt_get=0)
    assert (done.returncode, LEFT_OUT in done.stderr) == (0, False)
    assert calls == ["apt-get update", "apt-get install -y --no-install-recommends chromium"]


def test_nothing_is_done_where_it_is_present(run_it):
    done, calls = run_it(0, apt_get=0, chromium=0)
    assert (done.returncode, done.stderr, calls) == (0, "", [])


@pytest.mark.parametrize(
    ("user", "programs", "num_calls"),
    [(1000, {"apt_get": 0}, 0), (0, {}, 0), (0, {"apt_get": 100}, 1)],
)
def test_the_tests_are_left_out_elsewhere(run_it, user, programs, num_calls):
    done, calls = run_it(user, **programs)
    assert (done.returncode, len(calls)) == (0, num_calls)
    assert done.stderr.endswith(LEFT_OUT)
    assert ("log\n" in done.stderr) == bool(num_calls)
