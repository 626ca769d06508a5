"""setup.sh with a made-up Python, compiler and cmake: what it refuses, what it does once."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SYSTEM_TOOLS = """
    awk bash cat chmod cp dirname env flock getconf grep ln mkdir mktemp mv nproc readlink rm sed
    sha256sum sleep sort tail tr uname
""".split()

# Answers to all that setup.sh asks of Python, and notes every use of pip in $CALLS.
PYTHON = f"""#!/bin/sh
case "$1 $2" in
  "-c "*) echo "$0" ;;
  "- "*) exec "{sys.executable}" -I -S "$@" ;;
  "-m venv")
    mkdir -p "$4/bin" "$4/lib/python3.11/site-packages"
    cp "$0" "$4/bin/python"
    echo "$4" > "$4/bin/activate" ;;
  "-m pip")
    echo "$3 $*" >> "$CALLS"
    venv=$(dirname "$0")/..
    case "$0:$*" in *" "*:*"pip wheel"*) echo "a space in $0"; exit 1 ;; esac
    case "$*" in
      *cmake==*) exit 1 ;;
      *"pip wheel"*)
        while [ "$1" != --wheel-dir ]; do shift; done
        mkdir -p "$2" && echo wheel > "$2/horovod-0.0-py3-none-any.whl" ;;
      *horovod-0.0*) cp "$0" "$venv/bin/horovodrun" ;;
    esac
    for package in tensorflow tensorflow_io tensorflow_text keras horovod; do
      mkdir -p "$venv/lib/python3.11/site-packages/$package"
    done ;;
esac
"""


class Machine:
    """A PATH of its own, and a clone of the project that holds only what setup.sh reads."""

    def __init__(self, root: Path, project: Path):
        self.root, self.source, self.bin = root, project, root / "bin"
        self.bin.mkdir()
        for tool in SYSTEM_TOOLS:
            self.bin.joinpath(tool).symlink_to(shutil.which(tool))
        for name in ("c++", "make"):
            self.put(name, "#!/bin/sh\n")
        self.put("cmake", "#!/bin/sh\necho cmake version 3.25.1\n")
        self.put("python3.11", PYTHON)
        self.clone = self.make_clone("clone")

    def put(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def make_clone(self, name: str) -> Path:
        clone = self.root / name
        shutil.copytree(self.source / "run_scripts", clone / "run_scripts")
        shutil.copy(self.source / "pyproject.toml", clone)
        return clone

    def start(self, *arguments: str, clone: Path | None = None, **environment: str):
        environment = {
            "PATH": str(self.bin),
            "HOME": str(self.root / "home"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "CALLS": str(self.root / "calls"),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            **environment,
        }
        return subprocess.Popen(
            [shutil.which("bash"), (clone or self.clone) / "run_scripts/setup.sh", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **options) -> tuple[int, str, str]:
        process = self.start(*arguments, **options)
        stdout, stderr = process.communicate(timeout=60)
        return process.returncode, stdout, stderr

    def refusal(self, *arguments: str, **options) -> str:
        """The one line on stderr of a run that ends with exit code 2."""
        code, _, stderr = self.run(*arguments, **options)
        assert code == 2
        assert stderr.startswith("Expected ")
        assert stderr.count("\n") == 1
        return stderr

    def pip_calls(self, kind: str) -> int:
        calls = self.root / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return sum(line.startswith(kind) for line in lines)


@pytest.fixture
def machine(tmp_path, project) -> Machine:
    return Machine(tmp_path, project)


def test_refuses_without_python(machine):
    machine.put(
        "python3.11", "#!/bin/sh\necho 'pyenv: python3.11: command not found' >&2\nexit 127\n"
    )
    assert "Expected Python 3.11." in machine.refusal()
    assert not (machine.clone / ".venv").exists()


def test_refuses_python_without_venv(machine):
    machine.put("python3.11", "#!/bin/sh\nexit 4\n")
    assert "python3.11-venv" in machine.refusal()


def test_finds_python_of_pyenv(machine):
    (machine.bin / "python3.11").unlink()
    folder = machine.root / "pyenv/versions/3.11.9/bin"
    folder.mkdir(parents=True)
    (folder / "python3.11").write_text(PYTHON)
    (folder / "python3.11").chmod(0o755)
    code, stdout, stderr = machine.run(PYENV_ROOT=str(machine.root / "pyenv"))
    assert (code, stderr) == (0, "")
    assert "versions/3.11.9/bin/python3.11" in stdout


def test_asks_uv_for_python(machine):
    (machine.bin / "python3.11").rename(machine.bin / "managed")
    machine.put(
        "uv",
        "#!/bin/sh\n"
        f'[ "$2" = find ] && [ -e {machine.root}/asked ] && echo {machine.bin}/managed && exit\n'
        f'[ "$2" = install ] && : > {machine.root}/asked\n',
    )
    code, stdout, stderr = machine.run()
    assert (code, stderr) == (0, "")
    assert f"with {machine.bin}/managed" in stdout


def test_refuses_without_compiler(machine):
    (machine.bin / "c++").unlink()
    assert "C++ compiler" in machine.refusal()
    assert not (machine.clone / ".venv").exists()


def test_refuses_broken_compiler(machine):
    machine.put("c++", "#!/bin/sh\nexit 1\n")
    assert "C++ compiler" in machine.refusal()


def test_refuses_without_make(machine):
    (machine.bin / "make").unlink()
    assert "apt-get install make" in machine.refusal()


@pytest.mark.parametrize("found", ["cmake 4.0.3", "cmake 3.12.4", "no cmake"])
def test_refuses_wrong_cmake_when_pip_has_none(machine, found):
    (machine.bin / "cmake").unlink()
    if found != "no cmake":
        machine.put("cmake", f"#!/bin/sh\necho {found.replace(' ', ' version ')}\n")
    line = machine.refusal()
    assert f"Received: {found}, and pip could not fetch" in line
    assert machine.pip_calls("install") == 1  # before any package is downloaded


def test_refuses_unknown_option(machine):
    assert "Received: --fast." in machine.refusal("--fast")


def test_refuses_cache_that_cannot_be_written(machine):
    assert "XDG_CACHE_HOME" in machine.refusal(XDG_CACHE_HOME="/dev/null")


def test_second_run_does_nothing(machine):
    assert machine.run("--dev", "--docs")[0] == 0
    installs, wheels = machine.pip_calls("install"), machine.pip_calls("wheel")
    assert (installs, wheels) == (2, 1)
    code, stdout, stderr = machine.run()
    assert (code, stdout, stderr) == (0, "environment: .venv is up to date\n", "")
    assert machine.pip_calls("install") == installs
    with (machine.clone / "pyproject.toml").open("a") as file:
        file.write("# another pin\n")
    assert machine.run()[0] == 0
    assert machine.pip_calls("install") == installs + 1
    assert "[dev,docs]" in (machine.root / "calls").read_text().splitlines()[-1]


def test_horovod_is_built_again_once_nccl_is_installed(machine):
    stamp = machine.clone / ".venv/.setup/horovod"
    headers = machine.root / "nccl/include"
    headers.mkdir(parents=True)
    found = {"HOROVOD_NCCL_HOME": str(headers.parent), "HOROVOD_CUDA_HOME": "/nowhere"}
    code, stdout, _ = machine.run("--gpu", **found)
    assert code == 0 and "using Gloo instead of NCCL" in stdout
    assert "-gloo-" in stamp.read_text()
    assert machine.run(**found)[1] == "environment: .venv is up to date\n"
    (headers / "nccl.h").touch()
    machine.put("nvcc", "#!/bin/sh\n")
    assert machine.run(**found)[0] == 0
    assert "-nccl-" in stamp.read_text()
    assert machine.pip_calls("wheel") == 2
    assert machine.run(**found)[1] == "environment: .venv is up to date\n"
    # Without the extra `gpu`, Horovod keeps Gloo.
    plain = machine.make_clone("plain")
    assert machine.run(clone=plain, **found)[0] == 0
    assert "-gloo-" in (plain / ".venv/.setup/horovod").read_text()
    assert machine.run(clone=plain, **found)[1] == "environment: .venv is up to date\n"


def test_clones_share_one_horovod_build(machine):
    other = machine.make_clone("other")
    processes = [machine.start(), machine.start(clone=other), machine.start()]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert errors == ["", "", ""]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert machine.pip_calls("wheel") == 1
    wheels = machine.root / "cache/conformer-zoo/wheels"
    assert sorted(path.name[:7] for path in wheels.iterdir()) == [".lock", "horovod"]


def test_folder_with_a_space(machine):
    """Horovod's CMake files cannot be built against a TensorFlow below such a path."""
    assert machine.run(clone=machine.make_clone("a clone"))[::2] == (0, "")


def test_failed_installation_tells_the_log(machine):
    machine.put("python3.11", PYTHON.replace('"$CALLS"', '"$CALLS"; echo no network; exit 1'))
    code, _, stderr = machine.run()
    assert code == 1
    first, last = stderr.splitlines()
    assert first == "no network"
    assert last.startswith("installing packages: failed after 0 min")
