"""Makes a flat folder of images with a list of labels from an ImageFolder."""

import contextlib
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import new_folder
from vision.annotations import LABELS_NAME
from vision.classes import read_classes
from vision.input_pipeline import ImageFolder, read_image_folder

_FOLDER = "val"


def flat_names(found: ImageFolder) -> list[str]:
    """Returns a name for each image: its own, or `CLASS_NAME` if stems occur twice."""
    paths = [Path(path) for path in found.paths]
    if max(Counter(path.stem for path in paths).values()) == 1:
        return [path.name for path in paths]
    names = [
        f"{found.classes[label]}_{path.name}"
        for label, path in zip(found.labels, paths, strict=True)
    ]
    ((stem, count),) = Counter(Path(name).stem for name in names).most_common(1)
    if count > 1:
        raise UserError.expected(
            "images of a class with different names apart from the suffix",
            f"{count} images called {stem}",
            "Rename one of them",
        )
    return names


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.cli.flatten_images",
        f"Makes a flat folder of images, {_FOLDER}, and {LABELS_NAME} with lines NAME LABEL, from "
        "an ImageFolder.",
        "--data_dir=FOLDER --output_dir=DIR",
        example="--data_dir=ImageNet/val --output_dir=datasets",
    )
    flags.group("Input")
    flags.string("data_dir", None, "ImageFolder to read.", default_text=REQUIRED)
    about = "File of class names that numbers the classes."
    flags.string("imagenet_label_file", None, about, default_text="order of the folder names")
    flags.group("Output")
    about = f"New folder, in which {_FOLDER} and {LABELS_NAME} are written."
    flags.string("output_dir", None, about, default_text=REQUIRED)
    values, rest = flags.parse(argv)
    if rest or not values.data_dir or not values.output_dir:
        raise UserError.expected(
            "--data_dir FOLDER --output_dir DIR", " ".join(argv) or "nothing", "See --help"
        )
    found = read_image_folder(values.data_dir)
    if values.imagenet_label_file:
        classes = read_classes(values.imagenet_label_file)
        found = read_image_folder(values.data_dir, classes.aliases)
    names = flat_names(found)
    with new_folder(Path(values.output_dir)) as folder:
        (folder / _FOLDER).mkdir()
        for source, name in zip(found.paths, names, strict=True):
            target, real = folder / _FOLDER / name, os.path.realpath(source)
            with contextlib.suppress(OSError):  # a link needs no space, but the same file system
                os.link(real, target)
            if not target.exists():
                shutil.copyfile(real, target)
        pairs = zip(names, found.labels, strict=True)
        lines = [f"{name} {label}\n" for name, label in pairs]
        (folder / LABELS_NAME).write_text("".join(lines), encoding="utf-8")
    for place, remark in (*found.remarks, *found.left_out):
        print(f"{place}: {remark}", file=sys.stderr)
    counts = f"{len(names)} images, {len(found.classes)} classes"
    print(f"{values.output_dir}: {counts}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
