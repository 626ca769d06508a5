"""Tells what is on an image, or on the images of a folder."""

import os
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tools.config.command_line import run
from tools.conversion.quantization import Examples
from tools.errors import UserError
from tools.inference.flags import spread
from tools.inference.runner import answer
from vision.classes import Classes, read_labelled
from vision.classifier import feed, scores_of
from vision.config import PreprocessingConfig
from vision.images import ImageError, read_image
from vision.inference import command_line, predict
from vision.input_pipeline import find_images, read_image_folder


def examples(pipeline: dict, data_dir: Path, num_samples: int, judged: bool) -> Examples:
    """Reads images to calibrate with; see `tools.inference.flags.family`."""
    preprocessing = PreprocessingConfig(**pipeline["preprocessing"])
    labels: Sequence[int | None]
    if judged:
        classes = Classes(pipeline["class_names"], pipeline["class_folders"])
        found = read_labelled(data_dir, classes, pipeline["num_classes"])
        paths, labels = found.paths, found.labels
    else:
        paths = _unlabelled(data_dir)
        labels = [None] * len(paths)
    batches, references = [], []
    for path, label in spread(list(zip(paths, labels, strict=True)), num_samples):
        try:
            batches.append(feed(pipeline, read_image(path, preprocessing)[None]))
        except ImageError:
            continue
        references.append(label)
    if not batches:
        raise UserError.expected(f"images in {data_dir}", "only broken ones", "Choose other data")

    def accuracy(run, numbers):
        classify, hits = answer(run, pipeline), []
        for number in numbers:
            scores = scores_of(classify(batches[number]))
            hits.append(int(scores[0].argmax()) == references[number])
        return float(np.mean(hits))

    return Examples(batches, accuracy if judged else None)


def _unlabelled(data_dir: Path) -> list[str]:
    """The images of an ImageFolder, a flat folder or a file."""
    try:
        return read_image_folder(data_dir).paths
    except UserError:
        return find_images(data_dir)


def main(argv: list[str]) -> int:
    """Runs the program."""
    return predict(*command_line("vision/infer.py").parse(argv))


if __name__ == "__main__":
    run(main)
