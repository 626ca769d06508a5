"""Runs an exported or converted model on raw tensor files.

A file contains one sample of one input: its values in the input's dtype, little-endian, in
row-major order, without a header. For a string input, the file is the string.
"""

import itertools
import math
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.conversion.artifact import is_artifact
from tools.conversion.dim_range import parse_dim_ranges, show_shape
from tools.conversion.protocol import TensorSpec
from tools.conversion.samples import random_inputs
from tools.errors import UserError
from tools.families import open_session
from tools.files import write_bytes, write_text
from tools.inference.opening import say_assumptions
from tools.inference.options import RunnerOptions
from tools.inference.raw_tensors import check_preparation, run_timed
from tools.inference.session import Session

Specs = Sequence[TensorSpec]
Shapes = tuple[tuple[int, ...], ...]  # shape of one sample for each input
Files = dict[str, tuple[Path, ...]]  # stem of the sample to its file for each input
Dimensions = Mapping[str, Sequence]  # input to its shape for one sample; free sizes as TensorSpec


def find_files(text: str, specs: Specs) -> Files:
    """Returns the files that `--input` names, sorted by name.

    Args:
        text: value of `--input`: folders or files, separated by commas.
        specs: inputs of the signature.

    Raises:
        UserError: there is no file, two files have the same stem, or a sample lacks an input.
    """
    places = text.split(",")
    parts = [_files_at(place) for place in places]
    if len(specs) == 1:
        files = sorted((stem, x) for part in parts for stem, x in part.items())
        for (stem, before), (other, file) in itertools.pairwise(files):
            if stem == other:
                raise UserError.expected(
                    "different stems", f"{before} and {file}", "Rename one of them"
                )
        return {stem: (file,) for stem, file in files}
    if len(parts) != len(specs):
        names = ", ".join(spec.name for spec in specs)
        raise UserError.expected(
            f"a folder for each of the inputs {names}", text, "Name all of them"
        )
    stems = sorted(set().union(*parts))
    for stem, (place, part) in itertools.product(stems, zip(places, parts, strict=True)):
        if stem not in part:
            raise UserError.expected(
                "a file of every sample for every input", f"no {stem} in {place}", "Add the file"
            )
    return {stem: tuple(part[stem] for part in parts) for stem in stems}


def _files_at(place: str) -> dict[str, Path]:
    """Returns the `.bin` files of a folder, or one file, by stem."""
    path = Path(place)
    try:
        found = path.glob("*.bin") if path.is_dir() else [path]
        files = [x for x in found if place and x.is_file() and not x.name.startswith(".")]
    except OSError as error:
        raise _unreadable(path, error) from error
    if not files:
        raise UserError.expected(
            "a folder of .bin files, or a file", place or "an empty name", "Correct --input"
        )
    return {file.stem: file for file in files}


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError.expected("files that can be read", f"{path}: {reason}", "Correct --input")


def sample_dimensions(specs: Specs, text: str | None) -> Dimensions:
    """Returns the dimensions of one sample of each input, from `--shape` or from the model.

    Args:
        specs: inputs of the signature.
        text: value of `--shape`, or None.

    Raises:
        UserError: `--shape` cannot be parsed or does not fit the inputs.
    """
    dimensions = {spec.name: spec.shape[1:] for spec in specs}
    known = "; ".join(f"{name} {show_shape(shape)}" for name, shape in dimensions.items())
    wrong = UserError.expected(
        f"--shape NAME=224,224,3 for an input, without the batch ({known})", text, "Correct --shape"
    )
    try:
        given = parse_dim_ranges(text) if text is not None else {}
    except UserError:
        raise wrong from None
    for name, ranges in given.items():
        if len(ranges) != len(dimensions.get(name, ())):
            raise wrong
        dimensions[name] = tuple(low if low == high else (low, high) for low, high in ranges)
    return dimensions


def sample_shape(spec: TensorSpec, dimensions: Sequence, path: Path) -> tuple[int, ...]:
    """Returns the shape of the sample in a file, computed from the size of the file.

    Args:
        spec: name and dtype of the input.
        dimensions: dimensions of a sample, of which one may be free.
        path: the file.

    Raises:
        UserError: more than one dimension is free, or the size of the file fits no shape.
    """
    if spec.dtype == "string" and not dimensions:
        return ()
    free = [size for size in dimensions if not isinstance(size, int)]
    if spec.dtype == "string" or len(free) > 1:
        raise UserError.expected(
            f"numbers with at most one free dimension in a sample, or one string, for {spec.name}",
            f"{spec.dtype} {show_shape(dimensions)}",
            f"Give --shape {spec.name}=..." if len(free) > 1 else "Choose another --signature",
        )
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    one = math.prod(x for x in dimensions if isinstance(x, int)) * np.dtype(spec.dtype).itemsize
    low, high = (free[0] or (1, math.inf)) if free else (1, 1)
    if num_bytes % one or not low <= num_bytes // one <= high:
        raise UserError.expected(
            f"{spec.name} as {spec.dtype} {show_shape(dimensions)}: "
            + (f"a multiple of {one} bytes" if free else f"{one} bytes"),
            f"{path} of {num_bytes} bytes",
            "Correct the file, or --shape",
        )
    return tuple(x if isinstance(x, int) else num_bytes // one for x in dimensions)


def batches_of(
    files: Files, specs: Specs, dimensions: Dimensions, size: int
) -> list[tuple[Files, Shapes]]:
    """Groups samples of the same shape into batches, in the order of their names.

    Args:
        files: files of each sample.
        specs: inputs of the signature.
        dimensions: dimensions of a sample for each input.
        size: largest number of samples in a batch.

    Returns:
        The files of each batch, and the shape of a sample for each input.
    """
    groups: dict[Shapes, list] = defaultdict(list)
    for stem, paths in files.items():
        inputs = zip(specs, paths, strict=True)
        shapes = tuple(sample_shape(spec, dimensions[spec.name], path) for spec, path in inputs)
        groups[shapes].append((stem, paths))
    return [
        (dict(group[start : start + size]), shapes)
        for shapes, group in groups.items()
        for start in range(0, len(group), size)
    ]


def read_batch(files: Files, shapes: Shapes, specs: Specs) -> dict[str, np.ndarray]:
    """Reads the files of a batch into one array for each input.

    Args:
        files: files of each sample.
        shapes: shape of a sample for each input.
        specs: inputs of the signature.

    Raises:
        UserError: a file cannot be read, or its size has changed.
    """
    rows: dict[str, list] = defaultdict(list)
    for paths in files.values():
        for (name, dtype, _), shape, path in zip(specs, shapes, paths, strict=True):
            try:
                raw = path.read_bytes()
                values = np.array(raw, object) if dtype == "string" else np.frombuffer(raw, dtype)
                rows[name].append(values.reshape(shape))
            except (OSError, ValueError) as error:  # ValueError: the file has changed meanwhile
                raise _unreadable(path, error) from error
    return {name: np.stack(samples) for name, samples in rows.items()}


def random_batch(specs: Specs, dimensions: Dimensions, size: int) -> dict[str, np.ndarray]:
    """Returns random inputs of full length; ranges of sizes are set to their geometric mean.

    Args:
        specs: inputs of the signature.
        dimensions: dimensions of a sample for each input.
        size: number of samples.

    Raises:
        UserError: an input is a string, or its shape is not known.
    """
    shapes = {}
    for name, dtype, _ in specs:
        if None in dimensions[name] or dtype == "string":
            raise UserError.expected(
                f"a known shape and a numeric type for random {name}",
                f"{dtype} {show_shape(dimensions[name])}",
                "Give --input or --shape",
            )
        sizes = (x if isinstance(x, int) else round(math.prod(x) ** 0.5) for x in dimensions[name])
        shapes[name] = (size, *sizes)
    return random_inputs(specs, shapes)


def write_outputs(
    folder: Path, stems: Sequence[str], outputs: Mapping[str, np.ndarray], binary: bool
) -> None:
    """Writes `STEM_K.txt` or `STEM_K.bin` for every sample and output; outputs are sorted by name.

    Text files have a line for each row of the last axis. Strings are always written as text, one on
    a line.

    Args:
        folder: where to write.
        stems: names of the samples.
        outputs: `[B, ...]` by name, with at least as many rows as samples.
        binary: whether to write numbers as raw values instead of text.

    Raises:
        UserError: an output has too few rows.
    """
    for k, (name, array) in enumerate(sorted(outputs.items())):
        if array.ndim == 0 or len(array) < len(stems):
            raise UserError.expected(
                f"{len(stems)} rows of {name}", array.shape, "Choose another --signature"
            )
        for row, stem in enumerate(stems):
            sample = array[row : row + 1]
            if sample.dtype.kind in "OS":
                lines = [text.decode("utf-8", "surrogateescape") for text in sample.flat]
            elif binary:
                write_bytes(folder / f"{stem}_{k}.bin", sample.tobytes())
                continue
            else:
                rows = sample.reshape(math.prod(sample.shape[:-1]), sample.shape[-1])
                lines = [" ".join(map(str, values)) for values in rows]
            write_text(folder / f"{stem}_{k}.txt", "".join(f"{line}\n" for line in lines))


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "tools.cli.run_bins",
        "Runs raw tensor files through a model.",
        "--model=DIR --input=FOLDER --output=DIR [FLAGS]",
        example="--model=converted/base --input=bins --output=result --outfmt=TXT --batchsize=8",
    )
    flags.group("Input")
    flags.string(
        "input",
        None,
        "Folder of .bin files, or .bin files separated by commas. For several inputs: a folder for "
        "each, in the order of the inputs' names, with files of the same stems.",
        default_text="random values, with --loop",
    )
    unknown = "the model's, with one free dimension by the size of the file"
    flags.string("shape", None, 'Shape of a sample: "images=224,224,3".', default_text=unknown)
    flags.group("Output")
    about = "Folder for the files STEM_K of output K."
    flags.string("output", None, about, default_text="none is written")
    flags.enum("outfmt", "BIN", ("TXT", "BIN"), "Format of the output.")
    flags.group("Model")
    about = "SavedModel, converted model or ONNX file."
    flags.string("model", None, about, default_text=REQUIRED)
    flags.string("signature", "serving_default", "Signature of the model.")
    flags.group("Runtime")
    flags.integer("batchsize", 1, "Samples run together.")
    flags.group("Measurement")
    flags.integer("loop", 0, "Timed runs of the first batch, after one run of each batch.")
    values, rest = flags.parse(argv)
    if rest or not values.model or not (values.input if values.output else values.loop):
        expected = "--model, and --input with --output, or --loop"
        raise UserError.expected(expected, " ".join(argv) or "nothing", "See --help")
    if values.batchsize < 1 or values.loop < 0:
        given = f"{values.batchsize} and {values.loop}"
        raise UserError.expected("--batchsize >= 1 and --loop >= 0", given, "Correct the flags")
    if values.model.endswith(".om") and not Path(values.model).exists():
        folder = values.model.removesuffix(".om")
        raise UserError.expected(
            "a model of this project", f"{values.model}, a file for Ascend", f"Use --model={folder}"
        )
    say_assumptions(values.model)
    options = RunnerOptions(run_eagerly=not is_artifact(values.model))
    with open_session(values.model, options) as session:
        return _run(session, values)


def _run(session: Session, values: SimpleNamespace) -> int:
    """Runs the model as the flags say: writes outputs, measures times."""
    specs = session.signatures.get(values.signature)
    if not specs:
        known = ", ".join(session.signatures)
        raise UserError.expected(f"a --signature among {known}", values.signature, "Choose one")
    dimensions = sample_dimensions(specs, values.shape)
    if values.input:
        files = find_files(values.input, specs)
        for folder in {path.parent for paths in files.values() for path in paths}:
            check_preparation(folder, session.pipeline)
        batches = batches_of(files, specs, dimensions, values.batchsize)
        first = read_batch(*batches[0], specs)
    else:
        batches, first = [], random_batch(specs, dimensions, values.batchsize)
    if values.output:
        folders = {path.parent.resolve() for paths in files.values() for path in paths}
        if Path(values.output).resolve() in folders:
            raise UserError.expected(
                "an --output folder other than --input", values.output, "Name another folder"
            )
    run_timed(session, values.signature, first, [])  # warm-up
    seconds: list[float] = []
    for names, shapes in tqdm(batches, unit="batch", file=sys.stderr, disable=len(batches) < 2):
        inputs = read_batch(names, shapes, specs)
        outputs = run_timed(session, values.signature, inputs, seconds)
        if values.output:
            write_outputs(Path(values.output), list(names), outputs, values.outfmt == "BIN")
    if values.output:
        speed = f"{len(files) / sum(seconds):.2f} samples/s, time in the runtime after a warm-up"
        print(f"{counted(len(files), 'sample')} in {sum(seconds):.3f} s: {speed}")
    if values.loop:
        seconds = []
        for _ in tqdm(range(values.loop), unit="round", file=sys.stderr):
            run_timed(session, values.signature, first, seconds)
        mean, size = np.mean(seconds), len(next(iter(first.values())))
        p50, p95 = np.percentile(seconds, (50, 95))
        print(
            f"batch {size}: latency mean {1e3 * mean:.3f} ms, p50 {1e3 * p50:.3f} ms, "
            f"p95 {1e3 * p95:.3f} ms, throughput {size / mean:.2f} samples/s"
        )
    return 0


if __name__ == "__main__":
    run(main)
