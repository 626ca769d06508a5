"""run_docker.sh with a made-up docker that remembers images and containers as files."""

import pytest

DOCKER = """#!/bin/bash
state=${0%/*}/..
case $1 in
  info)
    [[ ! -e $state/stopped ]] || exit 1
    [[ $# == 1 ]] || cat "$state/runtimes"
    exit ;;
  images) [[ ! -e $state/image ]] || echo 0123; exit ;;
  ps) [[ ! -e $state/container || $5 != "name=^/$(<"$state/container")\\$" ]] || echo 4567; exit ;;
esac
printf '[%s]' "$@"  >> "$state/calls"
echo >> "$state/calls"
"""


@pytest.fixture
def clone(make_clone):
    root = make_clone("run_docker.sh", docker=DOCKER)
    (root / "runtimes").write_text('{"runc":{}}\n')
    return root


def calls(clone, run_script, **variables):
    (clone / "calls").unlink(missing_ok=True)
    found = run_script(clone, "run_docker.sh", [], **variables)
    assert found.returncode == 0, found.stderr
    return (clone / "calls").read_text()


def created(*more, name="conformer-zoo", image="conformer-zoo:latest"):
    first = ("run", "--detach", "--interactive", "--tty", "--name", name, "--network", "host")
    return (*first, "--shm-size", "16g", *more, image)


def entered(told, name="conformer-zoo"):
    return told("start", name) + told("exec", "--interactive", "--tty", name, "bash")


def test_image_and_container_are_made_where_there_are_none(clone, run_script, told):
    built = ("build", "--tag", "conformer-zoo:latest", "--file", f"{clone}/DOCKERFILE", clone)
    assert calls(clone, run_script) == told(*built) + told(*created()) + entered(told)


def test_what_is_there_is_entered(clone, run_script, told):
    (clone / "image").touch()
    assert calls(clone, run_script) == told(*created()) + entered(told)
    (clone / "container").write_text("conformer-zoo")
    assert calls(clone, run_script) == entered(told)
    # One whose name only begins like it is another one.
    (clone / "container").write_text("conformer-zoo-2")
    assert calls(clone, run_script) == told(*created()) + entered(told)


def test_graphics_cards_data_and_names_are_passed_on(clone, run_script, told):
    (clone / "image").touch()
    (clone / "runtimes").write_text('{"nvidia":{},"runc":{}}\n')
    variables = {"DATA_DIR": "/d d", "IMAGE_NAME": "mine:1", "MY_CONTAINER": "my"}
    options = ("--gpus", "all", "--volume", "/d d:/d d:ro", "--env", "DATA_DIR=/d d")
    expected = told(*created(*options, name="my", image="mine:1")) + entered(told, "my")
    assert calls(clone, run_script, **variables) == expected


def test_no_docker_is_one_line(clone, run_script):
    (clone / "stopped").touch()
    found = run_script(clone, "run_docker.sh", [])
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("Expected a running Docker.")
    assert found.stderr.count("\n") == 1
    assert not (clone / "calls").exists()
