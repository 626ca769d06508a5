"""Measures the accuracy of the outputs that `tools.cli.run_bins` writes, given a label list."""

import os
import sys
from collections import Counter
from pathlib import Path

if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np

from tools.amounts import counted
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import to_json, write_text
from vision.annotations import read_annotations
from vision.classes import top_classes

_TOP = 5
_BACKGROUND_CLASSES = 1001  # models with a background class 0 before the 1000 of ImageNet


def read_scores(path: Path) -> np.ndarray:
    """Reads the scores in the first line of a file.

    Returns:
        `[V]` float32.

    Raises:
        UserError: the line has no scores, or a score is not finite.
    """
    try:
        with path.open(encoding="utf-8") as file:
            scores = np.array([float(word) for word in file.readline().split()])
    except (OSError, ValueError) as error:
        raise UserError.expected(
            "a line of scores", f"{path}: {error}", "Create the file again"
        ) from error
    if not scores.size or not np.isfinite(scores).all():
        raise UserError.expected("a line of finite scores", path, "Create the file again")
    return scores


def score(folder: Path, labels: dict[str, int]) -> dict:
    """Compares the scores in the files `STEM_K.txt` of a folder with labels.

    Args:
        folder: folder of the files.
        labels: class number by stem.

    Returns:
        Content of the result file.

    Raises:
        UserError: there are no files, or a file has no label or another number of classes.
    """
    files = sorted(folder.glob("*_*.txt"))
    if not files:
        raise UserError.expected(
            "STEM_0.txt files in --benchmark_out", folder, "Correct --benchmark_out"
        )
    hits, scored = np.zeros(_TOP, np.int64), set()
    rows = {file: read_scores(file) for file in files}
    ((num_classes, _),) = Counter(row.size for row in rows.values()).most_common(1)
    for file, scores in rows.items():
        stem = file.stem.rpartition("_")[0]
        if stem not in labels:
            raise UserError.expected("a label for every result", file, "Complete --anno_file")
        if stem in scored:
            raise UserError.expected("one result for each image", file, "Remove the other outputs")
        scored.add(stem)
        label = labels[stem] + (num_classes == _BACKGROUND_CLASSES)
        if scores.size != num_classes or label >= num_classes:
            raise UserError.expected(
                f"{counted(num_classes, 'score')} and a label below that number",
                f"{counted(scores.size, 'score')} and label {labels[stem]} for {file}",
                "Use results and labels of the same model",
            )
        found = top_classes(scores[None], _TOP)[0] == label
        hits += np.arange(_TOP) >= (found.argmax() if found.any() else _TOP)
    missing = sorted(labels.keys() - scored)
    if missing:
        print(
            f"{len(missing)} of {counted(len(labels), 'image')} of --anno_file have no result: "
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
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "vision.postprocess",
        "Measures the accuracy of the outputs of tools.cli.run_bins.",
        example="--anno_file=val_label.txt --benchmark_out=result --result_file=acc_result.json",
    )
    flags.group("Input")
    flags.string("anno_file", "./val_label.txt", "Text file of lines NAME.JPEG LABEL.")
    flags.string("benchmark_out", "result/dumpOutput_device0", "Folder of STEM_0.txt files.")
    flags.group("Output")
    flags.string("result_file", "./result.json", "JSON file to write.")
    values = flags.parse_flags(argv)
    if not Path(values.benchmark_out).is_dir():
        above = Path(values.benchmark_out).parent  # ais_infer made a folder with the date
        is_result = any(above.glob("*_0.txt"))
        do = f"Use --benchmark_out={above}" if is_result else "Correct --benchmark_out"
        raise UserError.expected("a folder as --benchmark_out", values.benchmark_out, do)
    result = score(Path(values.benchmark_out), read_annotations(Path(values.anno_file)))
    write_text(Path(values.result_file), to_json(result))
    print(", ".join(f"{x['key']}: {x['value']}" for x in result["value"]))
    return 0


if __name__ == "__main__":
    run(main)
