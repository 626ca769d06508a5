"""run_docker.sh with a made-up docker that remembers images and containers as files."""

import pytest

# Keeps the name of the container, and its label behind a newline, in the file `container`.
DOCKER = """#!/bin/bash
state=${0%/*}/..
case $1 in
  info)
    [[ ! -e $state/stopped ]] || exit 1
    [[ $# == 1 ]] || cat "$state/runtimes"
    exit ;;
  images) [[ ! -e $state/image ]] || echo 0123; exit ;;
  ps) [[ ! -e $state/container || $5 != "name=^/$(head -1 "$state/container")\\$" ]] || echo 4567
    exit ;;
  inspect) tail -n +2 "$state/container"; exit ;;
  run) printf '%s\\n' "$6" "${8#*=}" > "$state/container" ;;
esac
printf '[%s]' "$@" >> "$state/calls"
echo >> "$state/calls"
"""


@pytest.fixture
def clone(make_clone):
    root = make_clone("run_docker.sh", docker=DOCKER)
    (root / "runtimes").write_text('{"nvidia":{},"runc":{}}\n')
    return root


def calls(clone, run_script, **variables):
    (clone / "calls").unlink(missing_ok=True)
    found = run_script(clone, "run_docker.sh", [], **variables)
    assert found.returncode == 0, found.stderr
    return (clone / "calls").read_text()


def refusal(clone, run_script, **variables):
    (clone / "calls").unlink(missing_ok=True)
    found = run_script(clone, "run_docker.sh", [], **variables)
    assert (found.returncode, found.stdout) == (2, "")
    assert not (clone / "calls").exists(), "nothing is built, started or entered"
    line = found.stderr.splitlines()[-1]
    assert line.startswith("Error: Expected ")
    return line


def created(
    clone, *more, name="conformer-zoo", image="conformer-zoo:latest", gpus="all", runs=None
):
    devices = () if gpus == "none" else ("--gpus", gpus)
    options = ("--network", "host", "--shm-size", "16g", *devices, *more)
    options += ("--volume", f"{runs or clone / 'runs'}:/workspace/conformer-zoo/runs")
    label = f"conformer-zoo.options={' '.join((image, *options))}"
    first = ("run", "--detach", "--interactive", "--tty", "--name", name, "--label", label)
    return (*first, *options, image)


def entered(told, name="conformer-zoo"):
    return told("start", name) + told("exec", "--interactive", "--tty", name, "bash")


def test_image_and_container_are_made_where_there_are_none(clone, run_script, told):
    built = ("build", "--tag", "conformer-zoo:latest", "--file", f"{clone}/DOCKERFILE", clone)
    assert calls(clone, run_script) == told(*built) + told(*created(clone)) + entered(told)
    assert (clone / "runs").is_dir()


def test_what_is_there_is_entered(clone, run_script, told):
    (clone / "image").touch()
    assert calls(clone, run_script) == told(*created(clone)) + entered(told)
    assert calls(clone, run_script) == entered(told)
    # A container whose name only begins like this one is another container.
    (clone / "container").write_text("conformer-zoo-2\n")
    assert calls(clone, run_script) == told(*created(clone)) + entered(told)


def test_data_sets_runs_and_names_are_passed_on(clone, run_script, told, tmp_path):
    (clone / "image").touch()
    folders = {"DATA_DIR": tmp_path / "d d", "IMAGENET_DIR": tmp_path / "i"}
    for folder in folders.values():
        folder.mkdir()
    own = {"IMAGE_NAME": "mine:1", "MY_CONTAINER": "my", "GPUS": "device=1"}
    variables = {name: str(path) for name, path in folders.items()} | own
    variables["RUNS_DIR"] = str(tmp_path / "r")
    options = []
    for name, path in folders.items():
        options += ["--volume", f"{path}:{path}:ro", "--env", f"{name}={path}"]
    made = created(clone, *options, name="my", image="mine:1", gpus="device=1", runs=tmp_path / "r")
    assert calls(clone, run_script, **variables) == told(*made) + entered(told, "my")


def test_defaults_of_env_sh_are_mounted_if_they_exist(clone, run_script, told):
    (clone / "image").touch()
    found = run_script(clone, "run_docker.sh", [])
    assert f"DATA_DIR: no folder {clone}/data/LibriSpeech, nothing is mounted" in found.stderr
    (clone / "container").unlink()
    (clone / "data" / "LibriSpeech").mkdir(parents=True)
    place = clone / "data" / "LibriSpeech"
    options = ("--volume", f"{place}:{place}:ro", "--env", f"DATA_DIR={place}")
    assert calls(clone, run_script) == told(*created(clone, *options)) + entered(told)


@pytest.mark.parametrize("name", ["DATA_DIR", "IMAGENET_DIR"])
def test_a_data_set_that_is_not_there_is_refused(clone, run_script, name):
    line = refusal(clone, run_script, **{name: "/no where"})
    assert line == (
        f"Error: Expected {name}, an existing folder. Received: /no where. Correct {name}."
    )


@pytest.mark.parametrize("change", ["DATA_DIR", "IMAGENET_DIR", "RUNS_DIR"])
def test_a_container_with_another_mount_is_refused(clone, run_script, tmp_path, change):
    (clone / "image").touch()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    calls(clone, run_script, **{change: str(tmp_path / "a")})
    line = refusal(clone, run_script, **{change: str(tmp_path / "b")})
    wanted, _, received = line.partition(" Received: ")
    assert str(tmp_path / "b") in wanted and str(tmp_path / "a") in received
    assert "docker rm --force conformer-zoo, or set MY_CONTAINER" in line


def test_a_container_of_another_image_and_one_without_a_label_are_refused(clone, run_script):
    (clone / "image").touch()
    calls(clone, run_script)
    assert "one with conformer-zoo:latest" in refusal(clone, run_script, IMAGE_NAME="mine:1")
    (clone / "container").write_text("conformer-zoo\n")
    assert "one with other options" in refusal(clone, run_script)


def test_gpus_are_not_left_out_silently(clone, run_script, told):
    (clone / "image").touch()
    (clone / "runtimes").write_text('{"runc":{}}\n')
    line = refusal(clone, run_script)
    assert "NVIDIA Container Toolkit" in line and 'the runtimes {"runc":{}}' in line
    assert "GPUS=none" in line
    made = told(*created(clone, gpus="none")) + entered(told)
    assert calls(clone, run_script, GPUS="none") == made
    (clone / "container").unlink()
    hook = clone / "bin" / "nvidia-container-runtime-hook"
    hook.touch()
    hook.chmod(0o755)
    assert calls(clone, run_script) == told(*created(clone)) + entered(told)


def test_no_docker_is_one_line(clone, run_script):
    (clone / "stopped").touch()
    assert "a running Docker. Received: none." in refusal(clone, run_script)
