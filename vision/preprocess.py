"""Writes images as raw model inputs, one file `STEM.bin` of float32 in CHW layout per image.

The preprocessing is saved in the same folder, so that `run_bins` can compare it with the model.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path

if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np
from tqdm import tqdm

from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import one_line, to_json, write_bytes, write_text
from tools.inference.raw_tensors import PREPARATION_FILE
from vision.flags import add_config_flags, config_options
from vision.input_pipeline import Batches, find_images


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "vision.preprocess",
        "Writes images as raw inputs (float32, STEM.bin) of a model exported with --layout NCHW.",
        "--src_path=FOLDER --save_path=FOLDER [FLAGS]",
        example="--src_path=images/ --save_path=bins",
    )
    flags.group("Input")
    flags.string("src_path", None, "Image, or folder of images.", default_text=REQUIRED)
    flags.group("Output")
    flags.string("save_path", None, "Folder to write to.", default_text=REQUIRED)
    flags.group("Runtime")
    about = "Number of images read in parallel."
    flags.integer("num_parallel_workers", 0, about, default_text="all cores")
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
                "images with different names apart from the suffix",
                f"{places[place]} and {path}",
                "Rename one of them",
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
        raise UserError.expected(f"images that can be read in {values.src_path}", 0, "Add images")
    made_by = {"layout": "NCHW", "preprocessing": asdict(preprocessing)}
    write_text(Path(values.save_path) / PREPARATION_FILE, to_json(made_by, indent=1) + "\n")
    print(
        f"{counted(written, 'image')} to {values.save_path}, {len(skipped)} skipped",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run(main)
