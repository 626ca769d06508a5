"""Exports a vision Conformer as a SavedModel, ONNX file or Keras file."""

import os
import sys
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # run as a file: its own checkout comes first
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import CommandLine, run
from tools.conversion.saved_model import load_saved_model, write_saved_model
from tools.errors import UserError
from tools.files import scratch_folder, to_json, write_bytes
from tools.training.checkpoint import Checkpoint
from vision.checkpoint import (
    full_name,
    initial_model,
    load_model,
)
from vision.classes import Classes, named_by
from vision.config import VisionConfig, load_config
from vision.flags import add_config_flags, add_weights_flag, checkpoint_of, config_options
from vision.model import VisionConformer
from vision.recipe import (
    CONFIG_FILE,
    describe_keras,
    named_checkpoint,
    own_classes,
    with_recipe,
)
from vision.signatures import LAYOUTS, METADATA_KEY, OUTPUTS, Signatures, pipeline_description

FORMATS = {"SAVEDMODEL": "", "ONNX": ".onnx", "KERAS": ".keras"}


def export_saved_model(
    model: VisionConformer,
    config: VisionConfig,
    output_dir: Path,
    classes: Classes = Classes(),  # noqa: B008 - immutable
    *,
    layout: str = "NHWC",
    outputs: str = "logits",
) -> dict:
    """Writes a SavedModel, whole or not at all.

    Args:
        model: built, float32.
        config: of the model and its input.
        output_dir: must not exist yet, or be an earlier export.
        classes: names to put in.
        layout: of images; see `Signatures`.
        outputs: of `serving_default`; see `Signatures`.

    Returns:
        The `pipeline.json`.
    """
    signatures = Signatures(model, config.preprocessing, classes, layout, outputs=outputs)
    description = pipeline_description(config, model, classes, layout, outputs=outputs)
    write_saved_model(output_dir, signatures.functions, model.weights, description)
    return description


def export_checkpoint(checkpoint: Checkpoint, output_dir: Path) -> None:
    """Exports a checkpoint of training with its classes; see `tools.families.Family`."""
    config = load_config(checkpoint.path / CONFIG_FILE)
    classes = own_classes(checkpoint.path)
    export_saved_model(load_model(config.model, checkpoint.path), config, output_dir, classes)


def export_onnx(saved_model_dir: Path, pipeline: dict, path: Path) -> None:
    """Writes `serving_default` of a SavedModel as ONNX, with its description as metadata.

    Inputs and outputs keep their names; the batch is free.
    """
    from tools.conversion.rewrites.cleaning import clean
    from tools.conversion.signature import to_onnx

    graph = to_onnx(load_saved_model(saved_model_dir)["serving_default"], "serving_default")
    clean(graph)
    graph.metadata_props.add(key=METADATA_KEY, value=to_json(pipeline))
    write_bytes(path, graph.SerializeToString())


def main(argv: list[str]) -> int:
    """Runs the program."""
    flags = CommandLine(
        "vision.export",
        "Exports a vision Conformer as a SavedModel, ONNX file or Keras file.",
        example="--checkpoint=conformer_tiny.pth --output_dir=exports/tiny",
    )
    flags.group("Input")
    about = "Weights: .pth, .safetensors, .keras, or a checkpoint of training."
    flags.string("checkpoint", None, about, short_name="c")
    flags.string("pretrained", None, "Another name of --checkpoint.")
    flags.group("Output")
    about = "SavedModel folder to write, or folder into which the ONNX or Keras file is written."
    flags.string("output_dir", None, about, default_text="in the current folder")
    formats = (*FORMATS, "MINDIR", "AIR")
    about = "Format to write; MINDIR and AIR are refused, since only MindSpore writes them."
    flags.enum("file_format", None, formats, about)
    flags.enum("layout", "NHWC", tuple(LAYOUTS), "Layout of the input.")
    about = "Outputs: the sum of the heads, its softmax, or the sum and both heads."
    flags.enum("outputs", "logits", OUTPUTS, about)
    about = "File with the names of the classes."
    flags.string("imagenet_label_file", None, about, default_text="the checkpoint's, else numbers")
    flags.group("Model")
    flags.integer("seed", 0, "Seed of initial weights, which a model without checkpoint has.")
    add_weights_flag(flags)
    add_config_flags(flags)
    values, rest = flags.parse(argv)
    if rest:
        raise UserError.expected("flags alone", " ".join(rest), "See --help")
    source = config_options(values)
    checkpoint = named_checkpoint(checkpoint_of(values), source)
    config = with_recipe(checkpoint, source).load()
    file_format = values.file_format or config.run.file_format
    if file_format not in FORMATS:
        raise UserError.expected(
            f"--file_format {', '.join(FORMATS)}",
            f"{file_format}, which only MindSpore writes",
            "Export ONNX",
        )
    number = config.model.num_classes
    classes = named_by(own_classes(checkpoint), values.imagenet_label_file, number)
    if checkpoint:
        model = load_model(config.model, checkpoint, use_ema=config.run.use_ema)
    else:
        model = initial_model(config.model, values.seed)
    name = full_name(config.model.arch) + FORMATS[file_format]
    options = {"classes": classes, "layout": values.layout, "outputs": values.outputs}
    if file_format == "SAVEDMODEL":
        path = Path(values.output_dir or name)
        export_saved_model(model, config, path, **options)
    else:
        path = Path(values.output_dir or ".") / name
        with scratch_folder(path) as folder:
            if file_format == "ONNX":
                saved = folder / "saved_model"
                export_onnx(saved, export_saved_model(model, config, saved, **options), path)
            else:
                model.save(folder / name)
                description = pipeline_description(config, model, **options)
                describe_keras(folder / name, description)
                write_bytes(path, (folder / name).read_bytes())
    print(f"exported {checkpoint or 'initial weights'} to {path}", file=sys.stderr)
    return 0


def cli() -> NoReturn:
    """Runs the program as a command of the shell."""
    run(main)


if __name__ == "__main__":
    cli()
