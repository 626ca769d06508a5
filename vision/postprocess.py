"""Scores the text files that `tools.cli.run_bins` writes against a list of labels."""

import os
import sys
from collections import Counter
from pathlib import Path

if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np

from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import to_json, write_text
from vision.classes import top_classes
from vision.input_pipeline import SUFFIXES

_TOP = 5
_BACKGROUND_CLASSES = 1001  # of models whose class 0 is none of ImageNet's


def read_labels(path: Path) -> dict[str, int]:
    """Reads lines of `NAME.JPEG LABEL`, by the stem of the name.

    Raises:
        UserError: the file cannot be read, or a line of it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise UserError.expected(
            "a readable --anno_file", f"{path}: {reason}", "Correct it"
        ) from error
    labels: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        *words, label = line.split()
        name = " ".join(words)
        stem = Path(name).stem
        if not stem or not label.isdecimal() or Path(name).suffix.lower() not in SUFFIXES:
            raise _bad_line(path, number, "NAME.JPEG LABEL", line)
        if labels.setdefault(stem, int(label)) != int(label):
            raise _bad_line(path, number, "one label for an image", line)
    if not labels:
        raise UserError.expected("lines of NAME.JPEG LABEL", f"{path}: none", "Correct --anno_file")
    return labels


def _bad_line(path: Path, number: int, expected: str, line: str) -> UserError:
    return UserError.expected(expected, f"{path}, line {number}: {line.strip()}", "Correct it")


def read_scores(path: Path) -> np.ndarray:
    """Reads the numbers of the first line.

    Raises:
        UserError: there are none.
    """
    try:
        with path.open(encoding="utf-8") as file:
            scores = np.array([float(word) for word in file.readline().split()])
    except (OSError, ValueError) as error:
        raise UserError.expected("a line of scores", f"{path}: {error}", "Make it again") from error
    if not scores.size or not np.isfinite(scores).all():
        raise UserError.expected("a line of finite scores", path, "Make it again")
    return scores


def score(folder: Path, labels: dict[str, int]) -> dict:
    """Compares the files `STEM_K.txt` of a folder with labels.

    Returns:
        What goes into the result file.

    Raises:
        UserError: no files, one without a label or of another number of classes.
    """
    files = sorted(folder.glob("*_*.txt"))
    if not files:
        raise UserError.expected("STEM_0.txt files in --benchmark_out", folder, "Correct it")
    hits, scored = np.zeros(_TOP, np.int64), set()
    rows = {file: read_scores(file) for file in files}
    ((num_classes, _),) = Counter(row.size for row in rows.values()).most_common(1)
    for file, scores in rows.items():
        stem = file.stem.rpartition("_")[0]
        if stem not in labels:
            raise UserError.expected("a label for every result", file, "Complete --anno_file")
        if stem in scored:
            raise UserError.expected("one result for an image", file, "Remove the other outputs")
        scored.add(stem)
        label = labels[stem] + (num_classes == _BACKGROUND_CLASSES)
        if scores.size != num_classes or label >= num_classes:
            raise UserError.expected(
                f"{num_classes} scores and a label below that",
                f"{scores.size} and {labels[stem]} for {file}",
                "Use the results and labels of one model",
            )
        found = top_classes(scores[None], _TOP)[0] == label
        hits += np.arange(_TOP) >= (found.argmax() if found.any() else _TOP)
    missing = sorted(labels.keys() - scored)
    if missing:
        print(
            f"{len(missing)} of {len(labels)} images of --anno_file have no result: "
            f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
            file=sys.stderr,
        )
    values = {"Number of images": str(len(files)), "Number of classes": str(num_classes)}
    for count, hit in enumerate(hits, start=1):
        values[f"Top{count} accuracy"] = f"{100 * hit / len(files):.2f}%"
    return {
        "title": "Overall statistical evaluation",
        "value": [{"key": key, "value": value} for key, value in values.items()],
    }


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "vision.postprocess",
        "Scores the outputs that tools.cli.run_bins has written.",
        example="--anno_file=val_label.txt --benchmark_out=result --result_file=acc_result.json",
    )
    flags.group("Input")
    flags.string("anno_file", "./val_label.txt", "Labels, as lines of NAME.JPEG LABEL.")
    flags.string("benchmark_out", "result/dumpOutput_device0", "Folder of STEM_0.txt files.")
    flags.group("Output")
    flags.string("result_file", "./result.json", "JSON to write.")
    values, rest = flags.parse(argv)
    if rest:
        raise UserError.expected("flags alone", " ".join(rest), "See --help")
    if not Path(values.benchmark_out).is_dir():
        raise UserError.expected("a folder as --benchmark_out", values.benchmark_out, "Correct it")
    result = score(Path(values.benchmark_out), read_labels(Path(values.anno_file)))
    write_text(Path(values.result_file), to_json(result))
    print(", ".join(f"{x['key']}: {x['value']}" for x in result["value"]))
    return 0


if __name__ == "__main__":
    run(main)
