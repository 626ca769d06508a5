"""Runs each row of docs/from_the_originals.md on small data, in a folder of its own.

    python -m tests.docs.originals [PART_OF_A_ROW_OR_HEADING ...]

A command of the table gets the arguments that a row leaves out: a model, an input, or a small
config. Commands are run in the order of the page, so that later ones read what earlier ones wrote.
A row that works must end with exit code 0; an answered one with exit code 2 and one line. The exit
code is 1 if a row does neither, and 2 if a PART is in no row.
"""

import importlib
import os
import re
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.benchmark import markdown
from tools.benchmark.blocks import PROJECT, link_project, run_text
from tools.config.command_line import run
from tools.config.originals import PROGRAMS

PAGE = "docs/from_the_originals.md"
# Scripts that need what this machine may lack, and which tests run on stand-ins.
NEEDS = {"run_docker.sh": "Docker", "setup.sh": "network access, and replaces the environment"}

_TRAINING = "--config=small.yml --data_dir=LibriSpeech --steps=1 --output_dir=runs/{number}"
_IMAGES = (
    "--config=small_images.yml --data_url=imagenet --image_size=64 --batch_size=2 --steps=1 "
    "--skip_eval"
)
# Arguments for what the commands of a row leave out, by program or script.
MISSING = {
    "conformer.train": _TRAINING,
    "conformer.infer": "--data_dir=DEV",
    "vision.train": _IMAGES,
    "vision.eval": "--config=small_images.yml --pretrained=small.pth --data_dir=imagenet/val "
    "--val_num_samples=8",
    "vision.export": "--pretrained=tiny.pth --arch=conformer_tiny",
    "vision.postprocess": "--anno_file=val_label.txt --benchmark_out=output",
    "tools.cli.run_bins": "--input=bin --output=output",
    "tools.cli.train_tokenizer": "--vocabulary_size=10",
}
# Flags of a row that make a flag above superfluous.
INSTEAD = {
    "--data_dir": ("--data_url", "--config=config.yml", "--anno_file"),
    "--config=small_images.yml": ("--pretrained=tiny.pth",),  # another architecture
    "--input": ("--loop",),
    "--output": ("--loop",),
    "--pretrained": ("--checkpoint",),
}
ARGUMENTS = {
    "multi_infer_run.sh": "-b 1 -p fp32 -e 1,0",
    "run_distribute_train_gpu.sh": f"small_images.yml --num_devices 2 --extra {_IMAGES[26:]}",
    "run_standalone_train_gpu.sh": f"small_images.yml --device 0 --extra {_IMAGES[26:]}",
    "prepare_imagenet.sh": "ARCHIVES UNPACKED",
    "run_eval_gpu.sh": "tiny.yml --checkpoint tiny.pth --extra --data_url imagenet --val_dir val "
    "--val_num_samples 8",
    "run_eval_onnx.sh": "imagenet/val --onnx_path conformer_tiny.onnx --val_num_samples 8",
    "run_infer_gpu.sh": "images --checkpoint tiny.pth --arch conformer_tiny",
    "run_infer_onnx.sh": "images --onnx_path conformer_tiny.onnx",
}
VARIABLES = {
    "DATA_DIR": "LibriSpeech",
    "IMAGENET_DIR": "imagenet",
    "INFER_CKPT": "MODEL",
    "CONFIG": "small.yml",
    "STEPS": "1",
    "NP": "2",
    "NUM_CLASSES": "3",
    "IMAGES_PER_VAL_CLASS": "2",
}
_NO_PATHS = ("STEPS", "NP", "NUM_CLASSES", "IMAGES_PER_VAL_CLASS")
# Values of the page that would take long, and the ones that the walk uses.
SHORTER = {
    "--steps=1000": "--steps=2",
    "--loop=20": "--loop=2",
    "--val_num_samples=500": "--val_num_samples=8",
    "--arch=conformer_base": "--arch=conformer_tiny",
}


def rows(page: str) -> Iterator[tuple[str, list[str]]]:
    """Yields the heading of each table, and its rows: original, here, state."""
    for section in page.split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        for row in markdown.rows(section):
            if row != ["original", "here", "state"]:
                yield heading, row


def commands(here: str) -> Iterator[list[str]]:
    """Yields the commands of a row as words: a program with `python -m`, a script, an old name."""
    for code in re.findall(r"`([^`]+)`", here):
        words = shlex.split(code)
        if words[:2] == ["python", "-m"] or words[0] == "bash":
            yield words
        elif "/" in code and Path(code).name in PROGRAMS:
            yield ["bash" if code.endswith(".sh") else "python", code]


def completed(words: Sequence[str], number: int) -> list[str]:
    """Returns a command with the arguments that its row leaves out."""
    name = words[2] if words[1] == "-m" else Path(words[1]).name
    words = [SHORTER.get(word, word) for word in words]
    given = " ".join(words)
    for word in shlex.split(MISSING.get(name, "").format(number=number)):
        flag = word.partition("=")[0]
        others = (flag, *INSTEAD.get(flag, ()), *INSTEAD.get(word, ()))
        if not any(other in given for other in others):
            words.append(word)
    return [*words, *shlex.split(ARGUMENTS.get(name, ""))]


def run_program(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Runs a `python -m` command in a child that shares the imports of this process."""
    with tempfile.TemporaryFile() as output:
        module = importlib.import_module(words[2])
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            os.chdir(folder)
            code = 1
            try:
                run(module.main, [words[2], *words[3:]])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode("utf-8", "replace")


def run_words(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Runs a command in the folder; returns its exit code and its output."""
    if words[1] == "-m":
        return run_program(words, folder)
    variables = {k: v if k in _NO_PATHS else str(folder / v) for k, v in VARIABLES.items()}
    return run_text(shlex.join(words), folder, variables=variables)


def is_as_said(state: str, code: int, output: str) -> bool:
    """Returns whether a command did what its row says."""
    if state != "answered":
        return code == 0
    lines = [line for line in output.splitlines() if line.startswith("Error: ")]
    return code == 2 and len(lines) == 1 and "Traceback" not in output


def main(argv: Sequence[str]) -> int:
    """Runs the program and returns its exit code."""
    failed, number = 0, 0
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    cells = [
        ("\n".join([heading, *row[:2]]), row)
        for heading, row in rows((PROJECT / PAGE).read_text("utf-8"))
    ]
    for part in argv:
        if not any(part in text for text, _ in cells):
            print(f"Error: Expected a part of a row of {PAGE}. Received: {part}. Copy one.")
            return 2
    chosen = [row for text, row in cells if not argv or any(part in text for part in argv)]
    needs_onnx = any("onnx" in original + here for original, here, _ in chosen)
    with tempfile.TemporaryDirectory(prefix="originals-") as place:
        folder = Path(place).resolve()
        link_project(folder)
        make = "python -m tests.docs.originals_data" + " --onnx" * needs_onnx
        code, output = run_text(make, folder)
        if code:
            print(output)
            return 1
        for variable, value in VARIABLES.items():
            if variable.endswith("_DIR"):
                os.environ[variable] = str(folder / value)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        for original, here, state in chosen:
            found = list(commands(here))
            if not found:
                print(f"nothing to run  {original}: {here}", flush=True)
            for words in found:
                number += 1
                need = NEEDS.get(Path(words[1]).name)
                if need:
                    print(f"left out  {original}: needs {need}", flush=True)
                    continue
                start = time.monotonic()
                code, output = run_words(completed(words, number), folder)
                fits = is_as_said(state, code, output)
                failed += not fits
                outcome = "ok      " if fits else "FAILED  "
                print(f"{outcome}  {original}, {time.monotonic() - start:.0f} s", flush=True)
                if not fits:
                    print(f"{shlex.join(completed(words, number))}\nexit code {code}")
                    print(output[-3000:], flush=True)
    print(f"{failed} of {number} commands failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
