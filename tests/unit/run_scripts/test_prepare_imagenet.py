"""prepare_imagenet.sh on archives of a few bytes in the layout of the official ones."""

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.imagenet import TRUTH, WNIDS, write_archives


@pytest.fixture
def archives(tmp_path):
    return functools.partial(write_archives, tmp_path / "archives")


@pytest.fixture
def prepare(project, tmp_path):
    clone = tmp_path / "clone"
    (clone / "run_scripts").mkdir(parents=True)
    shutil.copy(project / "env.sh", clone)
    for name in ("prepare_imagenet.sh", "help.sh"):
        shutil.copy(project / "run_scripts" / name, clone / "run_scripts")

    def run(*arguments, **variables):
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        settings = {"PATH": path, "NUM_CLASSES": "3", "IMAGES_PER_VAL_CLASS": "2", **variables}
        return subprocess.run(
            ["bash", str(clone / "run_scripts" / "prepare_imagenet.sh"), *map(str, arguments)],
            env=settings,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_every_image_comes_to_the_folder_of_its_class(prepare, archives, tmp_path):
    target = tmp_path / "below" / "imagenet"
    found = prepare(archives(), target)
    assert found.returncode == 0, found.stderr
    files = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    expected = {f"train/{w}/{w}_{i}.JPEG": w.encode() for w in WNIDS for i in range(2)}
    for number, label in enumerate(TRUTH, start=1):
        name = f"val/{WNIDS[label - 1]}/ILSVRC2012_val_{number:08d}.JPEG"
        expected[name] = b"%d" % number
    assert files == expected
    assert sorted(x.name for x in target.parent.iterdir()) == ["imagenet"]


def test_what_killed_runs_left_is_removed_and_what_is_being_made_stays(prepare, archives, tmp_path):
    place = tmp_path / "place"
    killed, held, fresh = (place / f".imagenet.{x}.unfinished" for x in ("killed", "held", "fresh"))
    for folder in (killed, held, fresh):
        (folder / "train").mkdir(parents=True)
    for folder in (killed, held):
        os.utime(folder, (1e9, 1e9))
    descriptor = os.open(held, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert prepare(archives(), place / "imagenet").returncode == 0
    finally:
        os.close(descriptor)
    assert sorted(x.name for x in place.iterdir()) == sorted([held.name, fresh.name, "imagenet"])


def test_a_set_in_the_making_is_locked(prepare, archives, tmp_path):
    """Seen by the program that moves the validation images."""
    place, seen = tmp_path / "place", tmp_path / "seen"
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "python").write_text(
        f'#!/usr/bin/env bash\nflock --nonblock "$2" true; echo $? > {seen}\n'
        f'exec {sys.executable} "$@"\n'
    )
    (tools / "python").chmod(0o755)
    found = prepare(archives(), place / "imagenet", PATH=f"{tools}:{os.environ['PATH']}")
    assert found.returncode == 0, found.stderr
    assert seen.read_text() == "1\n"


def cut(name):
    def change(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])

    return change


@pytest.mark.parametrize(
    ("changes", "settings", "message"),
    [
        ({}, {"NUM_CLASSES": "4"}, "Expected 4 classes"),
        ({}, {"NUM_CLASSES": "four"}, "Received: four. Correct the number."),
        ({}, {"IMAGES_PER_VAL_CLASS": "-1"}, "Received: -1. Correct the number."),
        ({}, {"IMAGES_PER_VAL_CLASS": "50"}, "Expected 50 images in val/n01000001. Received: 2"),
        ({"num_images": 5}, {}, "Expected 6 validation images. Received: 5"),
        ({"truth": (1, 1, 2, 2, 1, 1)}, {}, "the same classes"),
        (cut("ILSVRC2012_img_train.tar"), {}, "Expected a complete archive"),
        (cut("ILSVRC2012_devkit_t12.tar.gz"), {}, "Expected a complete archive"),
        (lambda folder: (folder / "ILSVRC2012_img_val.tar").unlink(), {}, "Received: no such file"),
    ],
)
def test_a_set_that_is_not_whole_leaves_nothing(
    prepare, archives, tmp_path, changes, settings, message
):
    folder = archives(**changes) if isinstance(changes, dict) else archives()
    if callable(changes):
        changes(folder)
    target = tmp_path / "place" / "imagenet"
    found = prepare(folder, target, **settings)
    assert found.returncode == 2
    assert message in found.stderr
    assert not target.parent.exists() or not any(target.parent.iterdir())


def test_a_folder_with_content_is_left_alone(prepare, archives, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    found = prepare(archives(), tmp_path / "full")
    assert found.returncode == 2 and "which is not empty" in found.stderr
    assert [x.name for x in (tmp_path / "full").iterdir()] == ["mine"]


@pytest.mark.parametrize("arguments", [(), ("a", "b", "c")])
def test_usage(prepare, arguments):
    found = prepare(*arguments)
    assert found.returncode == 2 and "ARCHIVES [TARGET]" in found.stderr
