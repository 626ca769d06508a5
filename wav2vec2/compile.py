"""Converts an exported model for the shapes of raw batches, runs it on them, reports the speed."""

import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np
from tqdm import tqdm

from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.config.making_options import from_flags
from tools.conversion.pipeline import read_pipeline
from tools.errors import UserError
from tools.files import new_folder
from tools.inference.flags import add_conversion_flags
from tools.inference.opening import open_runner
from tools.inference.options import RunnerOptions
from tools.inference.raw_tensors import run_timed
from wav2vec2.session import calibration_examples
from wav2vec2.tensors import (
    DEFAULT_DIR,
    LENGTHS_FILE,
    OUTPUTS_FILE,
    check_place,
    read_batch,
    read_inputs,
    write_json,
)


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "wav2vec2.compile",
        "Converts an exported model, runs it on raw batches of waveforms, and prints the speed.",
        "--batch_size=N --input_path=DATA/bin_om_input/bsN --output_path=FOLDER [FLAGS]",
        example="--batch_size=8 --input_path=data/bin_om_input/bs8 --output_path=data/output/bs8",
    )
    flags.group("Input")
    about = "Folder written by wav2vec2.preprocess."
    flags.string("input_path", None, about, default_text=REQUIRED)
    flags.group("Output")
    flags.string("output_path", None, "Folder to write the logits to.", default_text=REQUIRED)
    flags.group("Model")
    flags.string("native_savedmodel_dir", None, "SavedModel to run.", default_text=DEFAULT_DIR)
    about = "Another name of --native_savedmodel_dir."
    flags.string("torchscript_path", None, about, default_text="none")
    flags.group("Runtime")
    flags.integer("batch_size", 1, "Number of utterances in a batch.")
    about = "Runs the SavedModel in TensorFlow without conversion."
    flags.boolean("run_eagerly", False, about)
    add_conversion_flags(flags)
    values, rest = flags.parse(argv)
    if rest or not values.input_path or not values.output_path or values.batch_size < 1:
        raise UserError.expected(
            "--batch_size N --input_path FOLDER --output_path FOLDER",
            " ".join(argv) or "nothing",
            "See --help",
        )
    if (values.torchscript_path or "").lower().endswith((".pth", ".pt")):
        export = "Run python -m wav2vec2.export --pytorch_model_dir=FOLDER, and leave the flag out"
        is_exported = Path(DEFAULT_DIR).is_dir()
        raise UserError.expected(
            "the folder of an exported model as --torchscript_path",
            f"{values.torchscript_path}, a file of TorchScript",
            f"Leave the flag out to run {DEFAULT_DIR}" if is_exported else export,
        )
    options = from_flags(RunnerOptions, values)
    model_dir = values.native_savedmodel_dir or values.torchscript_path or DEFAULT_DIR
    pipeline = read_pipeline(model_dir, "wav2vec2")
    folder, output = Path(values.input_path), Path(values.output_path)
    lengths, preparation = read_inputs(folder, values.batch_size)
    if not (folder / LENGTHS_FILE).exists():
        print(f"{folder} has no {LENGTHS_FILE}: every row counts as a whole one", file=sys.stderr)
    if preparation.sample_rate_hz != pipeline["sample_rate_hz"]:
        raise UserError.expected(
            f"waveforms of {pipeline['sample_rate_hz']} Hz, the sample rate of {model_dir}",
            f"{preparation.sample_rate_hz} Hz in {folder}",
            "Run wav2vec2.preprocess with that --sample_rate_hz",
        )
    check_place(output, OUTPUTS_FILE, "output_path")
    sizes = [
        read_batch(folder / f"{name}.bin", len(rows), 1).shape[1] for name, rows in lengths.items()
    ]
    for (name, rows), size in zip(lengths.items(), sizes, strict=True):
        if not 0 <= min(rows) <= max(rows) <= size:
            raise UserError.expected(
                f"rows of 0 to {size} samples for {name} in {folder / LENGTHS_FILE}",
                f"{min(rows)} to {max(rows)}",
                "Run wav2vec2.preprocess again",
            )
    if not values.dim_range:
        # Dimensions that are equal in all batches, most often the samples, are made static.
        spans = _span(map(len, lengths.values())), _span(sizes)
        if not values.enable_dim_range:
            spans = values.batch_size, max(sizes)
        dim_range = f"waveforms={spans[0]},{spans[1]}"
        options = replace(options, enable_dim_range=True, dim_range=dim_range)
    runner = open_runner(model_dir, options, calibration_examples)
    hop, window = pipeline["hop_samples"], pipeline["receptive_field_samples"]
    seconds: list[float] = []
    frames: dict[str, list[int]] = {}
    with new_folder(output, replace=True) as written:
        bar = tqdm(lengths.items(), unit="batch", file=sys.stderr, delay=2)
        for name, rows in bar:
            waveforms = read_batch(folder / f"{name}.bin", len(rows), 1)
            waveforms = preparation.sound(name, waveforms, rows)
            inputs = {"waveforms": waveforms, "lengths": np.array(rows, np.int32)}
            if not frames:
                run_timed(runner, "serving_default", inputs, [])  # warm-up
            found = run_timed(runner, "serving_default", inputs, seconds)
            # A model with static shapes may have padded the batch to more rows and frames.
            num_frames = (waveforms.shape[1] - window) // hop + 1
            logits = found["logits"][: len(rows), :num_frames]
            (written / f"{name}.bin").write_bytes(logits.astype("<f4").tobytes())
            frames[name] = found["logit_lengths"][: len(rows)].tolist()
        outputs = {"frames": frames, "pipeline": pipeline}
        if preparation.utterances:
            outputs["utterances"] = preparation.utterances
        write_json(written / OUTPUTS_FILE, outputs)
    count = sum(map(len, lengths.values()))
    print(
        f"{counted(count, 'sample')} in {sum(seconds):.3f} s at batch size {values.batch_size}: "
        f"{count / sum(seconds):.2f} samples/s, inference time only, after a warm-up "
        f"({runner.mode}, {runner.backend}, {runner.precision})"
    )
    return 0


def _span(numbers) -> str:
    """Returns the range of numbers in the syntax of `--dim_range`."""
    numbers = sorted(numbers)
    return f"{numbers[0]}:{numbers[-1]}" if numbers[0] < numbers[-1] else str(numbers[0])


if __name__ == "__main__":
    run(main)
