"""Exports a trained Conformer as a SavedModel that runs in TensorFlow without this project."""

import os
import sys
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from conformer.checkpoint import CONFIG_FILE, VOCABULARY_FILE, load_weights
from conformer.config import load_config
from conformer.model import build_model
from conformer.signatures import Signatures, exported_weights, pipeline_description
from conformer.tokenizer import tokenizer_from_json
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.conversion.saved_model import write_saved_model
from tools.errors import UserError
from tools.training.checkpoint import Checkpoint, open_checkpoint


def export_checkpoint(checkpoint: Checkpoint, output_dir: Path) -> None:
    """Writes the model of a checkpoint as a SavedModel.

    If writing fails, no incomplete directory is left behind.

    Args:
        checkpoint: training checkpoint. If it has a moving average of the weights, the average is
            exported.
        output_dir: directory to write. It must not exist, or hold an earlier export, which is
            replaced.
    """
    config = load_config(checkpoint.path / CONFIG_FILE)
    tokenizer = tokenizer_from_json(checkpoint.asset(VOCABULARY_FILE))
    model = build_model(config, tokenizer.vocabulary_size)
    load_weights(model, checkpoint)
    signatures = Signatures(model, tokenizer.surfaces, config)
    description = pipeline_description(config, tokenizer, model)
    weights = exported_weights(model, config)
    write_saved_model(output_dir, signatures.functions, weights, description)


def export_source(source: str | Path, output_dir: str | Path) -> None:
    """Writes the model of a source of weights as a SavedModel.

    Args:
        source: training checkpoint or run directory.
        output_dir: see `export_checkpoint`.

    Raises:
        UserError: the source cannot be read.
    """
    export_checkpoint(open_checkpoint(source), Path(output_dir))


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "conformer.export",
        "Exports a trained Conformer as a SavedModel.",
        "--checkpoint=RUN --output_dir=DIR",
        example="--checkpoint=runs/m --output_dir=exports/m",
    )
    flags.group("Input")
    about = "Checkpoint directory, or run directory; of a run, the best checkpoint is exported."
    flags.string("checkpoint", None, about, default_text=REQUIRED)
    flags.group("Output")
    flags.string("output_dir", None, "SavedModel directory to write.", default_text=REQUIRED)
    values, rest = flags.parse(argv)
    if rest or not values.checkpoint or not values.output_dir:
        raise UserError.expected(
            "--checkpoint RUN_DIR --output_dir D", " ".join(argv) or "nothing", "See --help"
        )
    checkpoint = open_checkpoint(values.checkpoint)
    export_checkpoint(checkpoint, Path(values.output_dir))
    print(f"exported {checkpoint.path} to {values.output_dir}", file=sys.stderr)
    return 0


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
