"""Exports a Conformer as a SavedModel that needs only TensorFlow, or as files for sherpa-onnx."""

import os
import sys
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from conformer.checkpoint import CONFIG_FILE, VOCABULARY_FILE, load_weights
from conformer.config import ConformerConfig, load_config
from conformer.model import ConformerTransducer, build_model
from conformer.published import open_source
from conformer.sherpa_export import export_sherpa_onnx
from conformer.signatures import Signatures, exported_weights, pipeline_description
from conformer.tensorflow_asr import refuse_weights
from conformer.tokenizer import Tokenizer, tokenizer_from_json
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.conversion.pipeline import POLICIES, read_pipeline
from tools.conversion.saved_model import write_saved_model
from tools.errors import UserError
from tools.inference.flags import add_precision_flag
from tools.training.checkpoint import Checkpoint, open_checkpoint
from tools.weights.hub import local_source


def export_checkpoint(
    checkpoint: Checkpoint,
    output_dir: Path,
    *,
    precision: str = "fp32",
    file_format: str = "savedmodel",
) -> None:
    """Writes the model of a checkpoint as a SavedModel, or for sherpa-onnx.

    If writing fails, no incomplete directory is left behind.

    Args:
        checkpoint: training checkpoint. If it has a moving average of the weights, the average is
            exported.
        output_dir: directory to write. It must not exist, or hold an earlier export of the same
            format, which is replaced.
        precision: precision of the SavedModel, a key of `tools.conversion.pipeline.POLICIES`.
        file_format: one of `FORMATS`. Files for sherpa-onnx are always in float32.

    Raises:
        UserError: the directory holds something else, or sherpa-onnx cannot run the model, or is
            asked for with another precision than fp32.
    """
    config = load_config(checkpoint.path / CONFIG_FILE)
    tokenizer = tokenizer_from_json(checkpoint.asset(VOCABULARY_FILE))
    model = build_model(config, tokenizer.vocabulary_size, _policy(precision, file_format))
    load_weights(model, checkpoint)
    FORMATS[file_format](model, tokenizer, config, output_dir)


def _write_saved_model(
    model: ConformerTransducer, tokenizer: Tokenizer, config: ConformerConfig, output_dir: Path
) -> None:
    signatures = Signatures(model, tokenizer.surfaces, config)
    description = pipeline_description(config, tokenizer, model)
    weights = exported_weights(model, config)
    write_saved_model(output_dir, signatures.functions, weights, description)


def _policy(precision: str, file_format: str) -> str:
    """Returns the dtype policy of an export."""
    if file_format == "sherpa_onnx" and precision != "fp32":
        raise UserError.expected(
            "--precision=fp32 with --format=sherpa_onnx", precision, "Leave --precision out"
        )
    return POLICIES[precision]


FORMATS = {"savedmodel": _write_saved_model, "sherpa_onnx": export_sherpa_onnx}


def export_source(
    source: str | Path,
    output_dir: str | Path,
    *,
    precision: str = "fp32",
    file_format: str = "savedmodel",
) -> None:
    """Writes the model of a source of weights as a SavedModel, or for sherpa-onnx.

    Args:
        source: training checkpoint or run directory; or a published model: a folder of Hugging
            Face, a `.nemo` archive, or `hf:owner/name[@revision]`.
        output_dir: see `export_checkpoint`.
        precision: see `export_checkpoint`.
        file_format: one of `FORMATS`.

    Raises:
        UserError: the source cannot be downloaded or read, or is a model that is not supported.
    """
    path = local_source(source)
    if file_format == "sherpa_onnx" and (path / "saved_model.pb").is_file():
        bins = read_pipeline(path).get("num_mel_bins")
        raise UserError.expected(
            "a checkpoint or a published model with --format=sherpa_onnx",
            f"{path}, a SavedModel with its own front end of {bins} mel bins",
            "Give the checkpoint that it was exported from, or run it with conformer.infer",
        )
    published = open_source(path)
    if isinstance(published, Checkpoint):
        export_checkpoint(published, Path(output_dir), precision=precision, file_format=file_format)
        return
    model = published.build(_policy(precision, file_format))
    tokenizer, config = published.tokenizer, published.config
    del published  # with its tensors, which take as much memory as the model
    FORMATS[file_format](model, tokenizer, config, Path(output_dir))


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "conformer.export",
        "Exports a trained or published Conformer as a SavedModel, or for sherpa-onnx.",
        "--checkpoint=RUN|--pretrained=SOURCE --output_dir=DIR",
        example="--checkpoint=runs/m --output_dir=exports/m",
    )
    flags.group("Input")
    about = "Checkpoint directory, or run directory; of a run, the best checkpoint is exported."
    flags.string("checkpoint", None, about, default_text="none")
    about = (
        "Published model: Hugging Face folder, .nemo archive, or hf:owner/name[@revision]; or a "
        "run or checkpoint."
    )
    flags.string("pretrained", None, about, default_text="none")
    flags.group("Output")
    flags.string("output_dir", None, "Directory to write.", default_text=REQUIRED)
    about = "Format: a SavedModel, or ONNX files and tokens.txt for sherpa-onnx."
    flags.enum("format", "savedmodel", tuple(FORMATS), about)
    add_precision_flag(flags)
    values, rest = flags.parse(argv)
    source = values.checkpoint or values.pretrained
    if rest or not source or not values.output_dir or (values.checkpoint and values.pretrained):
        raise UserError.expected(
            "--checkpoint RUN_DIR or --pretrained SOURCE, and --output_dir D",
            " ".join(argv) or "nothing",
            "See --help",
        )
    refuse_weights(source)
    options = {"precision": values.precision, "file_format": values.format}
    if values.checkpoint:
        checkpoint = open_checkpoint(values.checkpoint)
        export_checkpoint(checkpoint, Path(values.output_dir), **options)
        source = checkpoint.path
    else:
        export_source(source, values.output_dir, **options)
    print(f"exported {source} to {values.output_dir}", file=sys.stderr)
    return 0


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
