"""Scores a checkpoint, SavedModel or ONNX file on an ImageFolder."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np

from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import check_writable
from tools.inference.selection import share
from vision.classes import read_labelled
from vision.config import config_of
from vision.program import (
    Classification,
    add_classifier_flags,
    data_options,
    open_classifier,
    show_speed,
)
from vision.recipe_keys import AMP_LEVELS
from vision.scoring import TOP, Scores, write_analysis, write_report


def command_line(program: str, usage: str) -> CommandLine:
    """The program's flags."""
    flags = CommandLine(program, "Scores a classifier on an ImageFolder.", usage)
    about = "Data set with --val_dir in it."
    flags.string("data_url", None, about, default_text="that of the --config, else IMAGENET_DIR")
    flags.string(
        "val_dir", None, "ImageFolder in --data_url.", default_text="that of the --config, else val"
    )
    flags.string(
        "analysis_dir",
        None,
        "Folder for the confusion matrix (CSV, PNG) and the accuracy of each class (CSV).",
        default_text="none is written",
    )
    add_classifier_flags(flags)
    return flags


def follow_config(values: SimpleNamespace, datasets: Sequence[str]) -> tuple[int, int]:
    """Lets an explicit --config tell of data, precision and device what the flags leave open.

    Returns:
        How many images to score, -1 for all, and the seed by which they are chosen.

    Source: MindSpore's recipe, whose eval.py has the arguments of its train.py.
    """
    limit, seed, data_url = -1, 0, ""
    if values.config:
        config = config_of(values)
        levels = {policy: level for level, policy in reversed(AMP_LEVELS.items())}
        values.amp_level = values.amp_level or levels[config.training.precision]
        values.device_target = values.device_target or config.run.device_target
        values.val_dir = values.val_dir or config.data.val_dir
        workers = config.data.num_parallel_workers
        values.num_parallel_workers = values.num_parallel_workers or workers
        data_url, limit = config.data.data_url, config.data.val_num_samples
        seed = config.training.seed
    values.val_dir = values.val_dir or "val"
    if not (datasets or values.data_dir or values.data_url):
        values.data_url = data_url or os.environ.get("IMAGENET_DIR", "")
    return limit, seed


def evaluate(values: SimpleNamespace, datasets: Sequence[str]) -> int:
    """Scores a model by the flags of `command_line`, on one data set."""
    limit, seed = follow_config(values, datasets)
    named = [values.data_dir, values.data_url and str(Path(values.data_url) / values.val_dir)]
    named = [x for x in (*datasets, *named) if x]
    if len(named) != 1:
        raise UserError.expected(
            "one ImageFolder, by --data_dir or --data_url", " ".join(named) or "none", "Name one"
        )
    if not Path(named[0]).is_dir():
        raise UserError.expected("an ImageFolder", f"{named[0]}: no such folder", "Correct it")
    if values.result_path:
        check_writable(Path(values.result_path).with_suffix(".json"))
    if values.analysis_dir:
        check_writable(Path(values.analysis_dir) / "confusion_matrix.csv")
    classifier = open_classifier(values, "heads")
    pipeline = classifier.pipeline
    data = read_labelled(named[0], classifier.classes, pipeline["num_classes"]).sample(limit, seed)
    chosen = share(range(len(data.paths)), values.data_ratio)
    paths = [data.paths[i] for i in chosen]
    labels = np.array([data.labels[i] for i in chosen])
    signature = "heads" if "heads" in classifier.signatures else "serving_default"
    run = Classification(classifier, paths, data_options(values), signature)
    scores = Scores(pipeline["num_classes"])
    rows = []
    for indices, outputs in run:
        predicted = scores.add(outputs, labels[indices])
        rows += zip((paths[i] for i in indices), labels[indices], predicted, strict=True)
    if not rows:
        bad = "; ".join(f"{path} ({reason})" for path, reason in run.skipped[:5])
        raise UserError.expected("images that can be read", bad, "Check the files")
    facts = run.facts(len(rows))
    loss, tops = scores.loss, {count: scores.top(count) for count in TOP}
    results = {} if loss is None else {"Loss": round(loss, 6)}
    results |= {f"Top{count}-Acc": round(share, 6) for count, share in tops.items()}
    print(f"eval results: {results}")
    names = classifier.classes.names or [data.classes.get(i) for i in range(len(scores.confusion))]
    if values.result_path:
        summary = {f"top{count}": share for count, share in tops.items()} | {"loss": loss}
        report = {**summary, **facts, "skipped": [*run.skipped, *data.remarks]}
        write_report(Path(values.result_path), report, rows, names)
    if values.analysis_dir:
        write_analysis(Path(values.analysis_dir), scores.confusion, names)
    show_speed(facts, [*run.skipped, *data.remarks])
    return 0


def main(argv: list[str]) -> int:
    """Runs the program."""
    return evaluate(*command_line("vision/eval.py", "[FLAGS] [DATASET]").parse(argv))


def cli() -> NoReturn:
    """Runs the program as a command of the shell."""
    run(main)


if __name__ == "__main__":
    cli()
