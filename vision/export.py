"""Exports a vision Conformer as a SavedModel, ONNX file or Keras file."""

import os
import sys
from pathlib import Path
from typing import NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
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
from vision.config import ConfigOptions, VisionConfig, load_config
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
    """Writes a model as a SavedModel. If writing fails, no incomplete directory is left behind.

    Args:
        model: a built float32 model.
        config: configuration of the model and its preprocessing.
        output_dir: directory to write. It must not exist, or hold an earlier export, which is
            replaced.
        classes: names of the classes to store in the SavedModel.
        layout: layout of the input images; see `Signatures`.
        outputs: outputs of `serving_default`; see `Signatures`.

    Returns:
        The content of `pipeline.json`.
    """
    signatures = Signatures(model, config.preprocessing, classes, layout, outputs=outputs)
    description = pipeline_description(config, model, classes, layout, outputs=outputs)
    write_saved_model(output_dir, signatures.functions, model.weights, description)
    return description


def export_checkpoint(checkpoint: Checkpoint, output_dir: Path) -> None:
    """Writes the model of a training checkpoint and its class names as a SavedModel.

    Args:
        checkpoint: training checkpoint. If it has a moving average of the weights, the average is
            exported.
        output_dir: see `export_saved_model`.
    """
    config = load_config(checkpoint.path / CONFIG_FILE)
    classes = own_classes(checkpoint.path)
    export_saved_model(load_model(config.model, checkpoint.path), config, output_dir, classes)


def export_source(source: str | Path, output_dir: str | Path) -> None:
    """Writes the model of a source of weights and its class names as a SavedModel.

    Args:
        source: checkpoint of any kind; see `vision.checkpoint.load_model`. A file of PyTorch's
            weights is read as Conformer-tiny with 1000 classes.
        output_dir: see `export_saved_model`.

    Raises:
        UserError: the source cannot be read, or has another architecture.
    """
    config = with_recipe(str(source), ConfigOptions()).load()
    model = load_model(config.model, source, use_ema=config.run.use_ema)
    export_saved_model(model, config, Path(output_dir), own_classes(source))


def export_onnx(saved_model_dir: Path, pipeline: dict, path: Path) -> None:
    """Converts `serving_default` of a SavedModel to an ONNX file.

    Inputs and outputs keep their names, and the batch size is dynamic. The description of the
    model is stored as metadata.

    Args:
        saved_model_dir: SavedModel.
        pipeline: description of the model, the content of `pipeline.json`.
        path: ONNX file to write.
    """
    from tools.conversion.rewrites.cleaning import clean
    from tools.conversion.signature import to_onnx

    graph = to_onnx(load_saved_model(saved_model_dir)["serving_default"], "serving_default")
    clean(graph)
    graph.metadata_props.add(key=METADATA_KEY, value=to_json(pipeline))
    write_bytes(path, graph.SerializeToString())


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "vision.export",
        "Exports a vision Conformer as a SavedModel, ONNX file or Keras file.",
        example="--checkpoint=conformer_tiny.pth --output_dir=exports/tiny",
    )
    flags.group("Input")
    about = (
        "Weights: training checkpoint, or .pth, .safetensors or .keras file, also as "
        "hf:owner/name[@revision]/path."
    )
    flags.string("checkpoint", None, about, short_name="c")
    flags.string("pretrained", None, "Another name of --checkpoint.")
    flags.group("Output")
    about = "SavedModel folder to write, or folder into which the ONNX or Keras file is written."
    flags.string("output_dir", None, about, default_text="in the current folder")
    formats = (*FORMATS, "MINDIR", "AIR")
    about = "Format to write; MINDIR and AIR are not supported."
    flags.enum("file_format", None, formats, about)
    flags.enum("layout", "NHWC", tuple(LAYOUTS), "Layout of the input images.")
    about = (
        "logits: sum of both heads; probabilities: softmax of it; heads: the sum and both heads."
    )
    flags.enum("outputs", "logits", OUTPUTS, about)
    about = "File of class names to store in the export."
    flags.string("imagenet_label_file", None, about, default_text="the checkpoint's, else numbers")
    flags.group("Model")
    flags.integer("seed", 0, "Seed of initial weights if no checkpoint is given.")
    add_weights_flag(flags)
    add_config_flags(flags)
    values, rest = flags.parse(argv)
    if rest:
        raise UserError.expected("only flags", " ".join(rest), "See --help")
    source = config_options(values)
    checkpoint = named_checkpoint(checkpoint_of(values), source)
    config = with_recipe(checkpoint, source).load()
    file_format = values.file_format or config.run.file_format
    if file_format not in FORMATS:
        raise UserError.expected(
            f"--file_format {', '.join(FORMATS)}",
            f"{file_format}, which only MindSpore can write",
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
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
