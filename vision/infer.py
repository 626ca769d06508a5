"""Classifies an image or the images in a folder."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tqdm import tqdm

from tools.config.command_line import CommandLine, run
from tools.files import check_not_input, check_writable, one_line, to_json, write_text
from tools.inference.selection import share
from vision.classes import top_classes
from vision.flags import add_classifier_flags, inference_options
from vision.input_pipeline import Listing, check_readable, find_images
from vision.opening import open_classifier
from vision.options import InferenceOptions
from vision.program import Classification, show_speed
from vision.session import ImageSession, probabilities_of, scores_of


def command_line(module: str, *, example: str | None = None) -> CommandLine:
    """Returns the flags of this program and of `vision.infer_onnx`."""
    flags = CommandLine(
        module,
        "Classifies an image, or the images in a folder without its subfolders.",
        "[FLAGS] IMAGE|FOLDER",
        example=example,
    )
    flags.group("Output")
    about = "JSON file to write: class numbers by path."
    flags.string("output", "predictions.json", about, short_name="o")
    about = "Number of classes to print for each image; above 1 with probabilities."
    flags.integer("top_k", 1, about)
    add_classifier_flags(flags)
    return flags


def predict(options: InferenceOptions) -> int:
    """Classifies an image or the images in a folder; prints and writes their classes."""
    data = options.data
    for path in filter(None, (options.output, data.result_path)):
        check_writable(Path(path))
    (place,) = data.paths
    found = find_images(place)
    check_readable(found.paths)
    for path in filter(None, (options.output, data.result_path)):
        check_not_input(Path(path), found.paths)
    with open_classifier(options.classifier) as classifier:
        return _predict(classifier, found, options)


def _predict(classifier: ImageSession, found: Listing, options: InferenceOptions) -> int:
    paths = share(found.paths, options.data.data_ratio)
    run = Classification(classifier, paths, options.data, left_out=found.left_out)
    predictions: dict[str, int | list[dict]] = {}
    for indices, outputs in run:
        probabilities = probabilities_of(scores_of(outputs))
        best = top_classes(probabilities, options.top_k)
        for index, numbers, row in zip(indices, best.tolist(), probabilities, strict=True):
            told = [
                {
                    "class": number,
                    "name": classifier.classes.name(number),
                    "probability": float(row[number]),
                }
                for number in numbers
            ]
            tqdm.write(f"{one_line(paths[index])} (class: {describe(told)})", file=sys.stdout)
            predictions[paths[index]] = told if options.top_k > 1 else numbers[0]
    write_text(Path(options.output), to_json(predictions, indent=1))
    print(f"wrote {options.output}", file=sys.stderr)
    facts = run.facts(len(predictions))
    if options.data.result_path:
        report = to_json({"top1": None, "top5": None, **facts, "skipped": run.skipped}, indent=1)
        write_text(Path(options.data.result_path), report)
    show_speed(facts, run.skipped)
    return 0


def describe(told: Sequence[dict]) -> str:
    """Returns classes as `293`, `293 cheetah`, or `293 cheetah 0.970, 288 leopard 0.021`."""
    several = len(told) > 1
    return ", ".join(
        str(x["class"])
        + (f" {x['name']}" if x["name"] else "")
        + (f" {x['probability']:.3f}" if several else "")
        for x in told
    )


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = command_line("vision.infer", example="photo.jpg --native_savedmodel_dir=exports/tiny")
    return predict(inference_options(*flags.parse(argv)))


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
