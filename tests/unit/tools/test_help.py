"""What `--help` of every program shows."""

import importlib
import re
import shlex
import sys
import types
from pathlib import Path

import pytest

from tests.support.errors import refused
from tools.config.command_line import HEADINGS, CommandLine
from tools.errors import UserError

ROOT = Path(__file__).parents[3]
FOLDERS = "conformer vision wav2vec2 tools/cli tools/benchmark".split()
PROGRAMS = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in FOLDERS
    for path in sorted((ROOT / folder).glob("*.py"))
    if '__name__ == "__main__"' in path.read_text()
]


def program_of(module: str, monkeypatch):
    """Imports a program; the peers of benchmarks get stand-ins for the other framework."""
    if not module.endswith("_peer"):
        return importlib.import_module(module).main
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    if module not in sys.modules:
        monkeypatch.setitem(sys.modules, module, None)  # so that the import is undone afterwards
        del sys.modules[module]
    return importlib.import_module(module).main


def help_of(module: str, monkeypatch, capsys) -> list[str]:
    main = program_of(module, monkeypatch)
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    return capsys.readouterr().out.splitlines()


def flags_of(lines: list[str]) -> dict[str, tuple[str, str, str]]:
    """Reads heading, declaration and text of each flag."""
    flags, heading, declaration = {}, None, None
    for line in lines:
        if re.fullmatch(r"[A-Z][a-z]+:", line):
            heading = line[:-1]
        elif line.startswith("  --"):
            declaration = line.strip()
            name = re.match(r"--(?:\[no\])?(\w+)", declaration)[1]
            flags[name] = (heading, declaration, "")
        elif line.startswith("      "):
            flags[name] = (heading, declaration, f"{flags[name][2]} {line.strip()}".strip())
    return flags


def test_there_are_programs_in_every_folder():
    assert {x.rpartition(".")[0].replace(".", "/") for x in PROGRAMS} == set(FOLDERS)


@pytest.mark.parametrize("module", PROGRAMS)
def test_help(module, monkeypatch, capsys):
    lines = help_of(module, monkeypatch, capsys)
    sentence, empty, example, usage = lines[:4]
    assert re.fullmatch(r"[A-Z][^\n]*\w\.", sentence) and ". " not in sentence and not empty
    command = f"python -m {module}"
    assert (example + " ").startswith(f"Example: {command} ")
    assert (usage + " ").startswith(f"Usage: {command} ")
    flags = flags_of(lines)
    headings = [line[:-1] for line in lines if re.fullmatch(r"\w+:", line)]
    assert headings == [x for x in HEADINGS if x in headings] and headings[-1] == "Help"
    assert flags.pop("help")[0] == "Help"
    for name, (heading, declaration, text) in flags.items():
        assert heading in HEADINGS, name
        assert re.search(r"\S\. (Default: .+\.|Required\.)$", text), (name, text)
        assert "[no]" in declaration or re.search(r"=\S", declaration), name


@pytest.mark.parametrize("module", PROGRAMS)
def test_the_example_is_parsed_by_the_program(module, monkeypatch, capsys):
    lines = help_of(module, monkeypatch, capsys)
    words = shlex.split(lines[2].removeprefix(f"Example: python -m {module}"))
    parse, parsed = CommandLine.parse, []

    def record(self, argv):
        parsed.append(parse(self, argv))
        raise UserError("parsed")

    monkeypatch.setattr(CommandLine, "parse", record)
    with refused("parsed"):
        program_of(module, monkeypatch)(words)
    ((values, positional),) = parsed
    given = [re.match(r"--(\w+)", word)[1] for word in words if word.startswith("--")]
    assert len(given) + len(positional) == len(words)
    flags = flags_of(lines)
    for name, (_, _, text) in flags.items():
        if text.endswith("Required."):
            assert name in given and getattr(values, name), name


OF_SOUNDS = r"(?i)waveform|sound|second|utterance|decod"


@pytest.mark.parametrize("module", ["vision.infer", "vision.eval", "vision.infer_onnx"])
def test_programs_for_images_have_no_flags_for_sounds(module, monkeypatch, capsys):
    flags = flags_of(help_of(module, monkeypatch, capsys))
    assert "images=1:8" in flags["dim_range"][2]
    assert not [name for name, told in flags.items() if re.search(OF_SOUNDS, f"{name} {told}")]
    assert "max_seconds" in flags_of(help_of("conformer.infer", monkeypatch, capsys))


@pytest.mark.parametrize(
    ("module", "flag", "choices"),
    [
        ("vision.train", "optimizer", "adamw|adam|momentum|sgd"),
        ("vision.train", "interpolation", "bicubic|bilinear|lanczos|nearest"),
        ("vision.train", "epochs", "int"),
        ("vision.train", "beta", "float,float"),
        ("vision.train", "layer_decay", "float"),
        ("vision.train", "freeze", "string,..."),
        ("vision.export", "layout", "NHWC|NCHW"),
        ("tools.cli.run_bins", "outfmt", "TXT|BIN"),
    ],
)
def test_flags_show_their_choices_or_type(module, flag, choices, monkeypatch, capsys):
    flags = flags_of(help_of(module, monkeypatch, capsys))
    assert flags[flag][1].split(",")[0:2] == f"--{flag}={choices}".split(",")[0:2]


@pytest.mark.parametrize(
    ("flag", "heading"),
    [
        ("config", "Config"),
        ("set", "Config"),
        ("data_url", "Input"),
        ("arch", "Model"),
        ("image_size", "Preprocessing"),
        ("mixup", "Augmentation"),
        ("batch_size", "Training"),
        ("clip_grad_norm", "Optimizer"),
        ("beta", "Optimizer"),
        ("base_lr", "Optimizer"),
        ("ckpt_keep_num", "Checkpoints"),
        ("eval_batch_size", "Evaluation"),
        ("dump_graph", "Runtime"),
        ("ckpt_root_dir", "Output"),
    ],
)
def test_keys_of_the_vision_config_are_under_their_headings(flag, heading, monkeypatch, capsys):
    assert flags_of(help_of("vision.train", monkeypatch, capsys))[flag][0] == heading
