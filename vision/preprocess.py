"""Writes images as raw input of the model: one `STEM.bin` of float32 CHW for each.

A file beside them tells how they were made, so that they are not run through another model.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np
from tqdm import tqdm

from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import one_line, to_json, write_bytes, write_text
from tools.inference.raw_tensors import PREPARATION_FILE
from vision.flags import add_config_flags, config_options
from vision.input_pipeline import Batches, find_images


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "vision.preprocess",
        "Writes images as raw input of a model with --layout NCHW: a STEM.bin of float32 each.",
        "--src_path=FOLDER --save_path=FOLDER [FLAGS]",
        example="--src_path=images/ --save_path=bins",
    )
    flags.group("Input")
    flags.string("src_path", None, "Image, or folder of images.", default_text=REQUIRED)
    flags.group("Output")
    flags.string("save_path", None, "Folder to write into.", default_text=REQUIRED)
    flags.group("Runtime")
    flags.integer("num_parallel_workers", 0, "Images decoded at once.", default_text="all cores")
    add_config_flags(flags, "preprocessing")
    values, rest = flags.parse(argv)
    if rest or not values.src_path or not values.save_path:
        raise UserError.expected(
            "--src_path FOLDER --save_path FOLDER", " ".join(argv) or "nothing", "See --help"
        )
    paths, left_out = find_images(values.src_path)
    places: dict[Path, str] = {}
    for path in paths:
        place = Path(values.save_path) / f"{Path(path).stem}.bin"
        if place in places:
            raise UserError.expected(
                "images of different stems", f"{places[place]} and {path}", "Rename one"
            )
        places[place] = path
    targets = list(places)
    preprocessing = config_options(values).load().preprocessing
    batches = Batches(paths, preprocessing, 1, values.num_parallel_workers)
    for (index,), (image,) in tqdm(batches, "writing", len(paths), unit="image", delay=2):
        write_bytes(targets[index], np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes())
    written = len(paths) - len(batches.reasons)
    skipped = [*left_out, *((paths[i], reason) for i, reason in sorted(batches.reasons.items()))]
    for path, reason in skipped:
        print(f"skipped {one_line(path)}: {reason}", file=sys.stderr)
    if not written:
        raise UserError.expected(f"images that can be read in {values.src_path}", 0, "Add some")
    made_by = {"layout": "NCHW", "preprocessing": asdict(preprocessing)}
    write_text(Path(values.save_path) / PREPARATION_FILE, to_json(made_by, indent=1) + "\n")
    print(f"{written} images to {values.save_path}, {len(skipped)} skipped", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
