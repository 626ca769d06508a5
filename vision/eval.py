"""Measures the accuracy of a checkpoint, SavedModel or ONNX file on an ImageFolder."""

import os
import sys
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np

from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import check_writable, result_file
from tools.inference.selection import share
from vision.classes import read_labelled
from vision.flags import add_classifier_flags, evaluation_options
from vision.input_pipeline import ImageFolder, check_readable
from vision.opening import known_classes, open_classifier
from vision.options import EvaluationOptions
from vision.program import Classification, show_speed
from vision.scoring import TOP, Scores, write_analysis, write_report
from vision.session import ImageSession


def command_line(module: str, usage: str, *, example: str | None = None) -> CommandLine:
    """Returns the flags of this program and of `vision.eval_onnx`."""
    about = "Measures the accuracy of a classifier on an ImageFolder."
    flags = CommandLine(module, about, usage, example=example)
    flags.group("Input")
    about = "Folder that contains --val_dir."
    flags.string("data_url", None, about, default_text="that of the --config, else IMAGENET_DIR")
    about = "ImageFolder, or flat folder of images with --anno_file, in --data_url."
    flags.string("val_dir", None, about, default_text="that of the --config, else val")
    about = "Labels of a flat folder: lines NAME.JPEG LABEL."
    flags.string("anno_file", None, about, default_text="val_label.txt beside the folder val")
    about = "Number of images to use, chosen at random by --seed; -1: all."
    flags.integer("val_num_samples", None, about, default_text="that of the --config, else -1")
    about = "Seed of the random choice of images."
    flags.integer("seed", None, about, default_text="that of the --config, else 0")
    flags.group("Output")
    flags.string(
        "analysis_dir",
        None,
        "Folder to write the confusion matrix (CSV, PNG) and the accuracy of each class (CSV) to.",
        default_text="not written",
    )
    add_classifier_flags(flags)
    return flags


def evaluate(options: EvaluationOptions) -> int:
    """Evaluates a model on one data set, prints the results and writes the reports."""
    (place,) = options.data.paths
    if not Path(place).is_dir():
        raise UserError.expected(
            "an ImageFolder", f"{place}: no such folder", "Correct the folder name"
        )
    if options.data.result_path:
        check_writable(result_file(Path(options.data.result_path), ".json"))
    if options.analysis_dir:
        check_writable(Path(options.analysis_dir) / "confusion_matrix.csv")
    known = known_classes(options.classifier)
    images = read_labelled(place, *known, options.anno_file) if known else None
    if images:
        check_readable(images.paths)
    with open_classifier(options.classifier, "heads") as classifier:
        if images is None:
            number = classifier.pipeline["num_classes"]
            images = read_labelled(place, classifier.classes, number, options.anno_file)
        return _evaluate(classifier, images, options)


def _evaluate(classifier: ImageSession, images: ImageFolder, options: EvaluationOptions) -> int:
    num_classes = classifier.pipeline["num_classes"]
    if not classifier.classes.aliases and images.classes:
        (place,) = options.data.paths
        print(
            f"the model has no names for its {num_classes} classes: the folders in {place} are "
            "numbered in the order of their names. Set names with --imagenet_label_file",
            file=sys.stderr,
        )
    images = images.sample(options.num_samples, options.seed)
    chosen = share(range(len(images.paths)), options.data.data_ratio)
    paths = [images.paths[i] for i in chosen]
    labels = np.array([images.labels[i] for i in chosen])
    signature = "heads" if "heads" in classifier.signatures else "serving_default"
    run = Classification(classifier, paths, options.data, signature, left_out=images.left_out)
    scores, rows = Scores(num_classes), []
    for indices, outputs in run:
        predicted = scores.add(outputs, labels[indices])
        rows += zip((paths[i] for i in indices), labels[indices], predicted, strict=True)
    facts = run.facts(len(rows))
    loss, tops = scores.loss, {count: scores.top(count) for count in TOP}
    results = {} if loss is None else {"Loss": round(loss, 6)}
    results |= {f"Top{count}-Acc": round(share, 6) for count, share in tops.items()}
    print(f"eval results: {results}")
    names = classifier.classes.names or [images.classes.get(i) for i in range(num_classes)]
    notes = [*run.skipped, *images.remarks]
    if options.data.result_path:
        summary = {f"top{count}": share for count, share in tops.items()} | {"loss": loss}
        report = {**summary, **facts, "skipped": notes}
        write_report(Path(options.data.result_path), report, rows, names)
    if options.analysis_dir:
        write_analysis(Path(options.analysis_dir), scores.confusion, names)
    show_speed(facts, notes)
    return 0


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    example = "ImageNet/val --native_savedmodel_dir=exports/tiny --batch_size=16"
    flags = command_line("vision.eval", "[FLAGS] [DATASET]", example=example)
    values, places = flags.parse(argv)
    return evaluate(evaluation_options(values, places))


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
