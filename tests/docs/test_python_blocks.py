"""The Python blocks of README and docs run, and print what the comment behind a `print` says."""

import re

import pytest

import conformer
import vision
from tests.docs.test_docs import PAGES, PROJECT, read
from tools.benchmark import markdown
from tools.cli.draw_docs import draw_box

PROVIDED = {"an exported model in exports/tiny", "your own image"}
EXPECTED = re.compile(r"^ *print\(.*\)  # (.+)$", re.MULTILINE)


def blocks() -> list:
    """Lists the blocks that run on what a checkout holds; equal ones once."""
    found = {}
    for page in PAGES:
        for block in markdown.blocks(read(page), "python"):
            if {need.strip() for need in block.needs.split(",") if need} <= PROVIDED:
                found.setdefault(block.text, pytest.param(block.text, id=f"{page}:{block.line}"))
    return list(found.values())


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with the files that the blocks name. Models run in TensorFlow, not converted."""
    for name in ("configs", "conformer", "vision"):
        (tmp_path / name).symlink_to(PROJECT / name)
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "tiny").symlink_to(PROJECT / "vision" / "pretrained" / "photos")
    draw_box().save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    for family in (conformer, vision):
        load = family.load
        monkeypatch.setattr(
            family,
            "load",
            lambda *args, load=load, **options: load(*args, **options | {"run_eagerly": True}),
        )


def test_there_are_blocks_that_run():
    pages = {block.id.partition(":")[0] for block in blocks()}
    assert {"README.md", "docs/python.md", "docs/vision.md"} <= pages


@pytest.mark.parametrize("block", blocks())
@pytest.mark.usefixtures("checkout")
def test_a_block_prints_what_it_says(block, capsys):
    names = {"__name__": "block"}
    exec(compile(block, "the block", "exec"), names)
    for name, test in names.items():
        if name.startswith("test_"):
            test()
    expected, printed = EXPECTED.findall(block), capsys.readouterr().out.splitlines()
    assert [line for line in printed if line in expected] == expected
