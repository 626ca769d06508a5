"""Exports a vision Conformer as a SavedModel, ONNX file or Keras file."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple, NoReturn

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from tools.config.command_line import CommandLine, run
from tools.conversion.onnx_export import OPSETS, check_opset, export_onnx
from tools.conversion.pipeline import POLICIES, precision_of_policy
from tools.conversion.saved_model import write_saved_model
from tools.errors import UserError
from tools.files import scratch_folder, write_bytes
from tools.inference.flags import add_precision_flag
from tools.training.checkpoint import Checkpoint
from vision.checkpoint import initial_model, load_model
from vision.classes import Classes, named_by
from vision.config import ConfigOptions, VisionConfig, load_config
from vision.flags import add_config_flags, add_weights_flag, checkpoint_of, config_options
from vision.model import CHANNELS, VisionConformer
from vision.recipe import (
    CONFIG_FILE,
    describe_keras,
    named_checkpoint,
    own_classes,
    with_recipe,
)
from vision.signatures import LAYOUTS, OUTPUTS, Signatures, pipeline_description

FORMATS = {"SAVEDMODEL": "", "ONNX": ".onnx", "KERAS": ".keras"}
# Config files of mmpretrain, such as conformer-base-p16_8xb128_in1k.py.
_MMPRETRAIN = re.compile(r"conformer-(?P<size>tiny|small|base)-p(?P<patch>16|32)_.*\.py")


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
        model: a built model of any precision.
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


class Shape(NamedTuple):
    """The value of `--shape`.

    Attributes:
        batch: fixed batch size; None leaves it free.
        side: height and width of the images; None: those of the config.
        layout: layout of the images; None: that of `--layout`.
    """

    batch: int | None = None
    side: int | None = None
    layout: str | None = None


def parse_shape(text: str | None) -> Shape:
    """Parses `--shape`: `S`, `S,S`, `B,3,S,S` or `B,S,S,3`, where B is -1 for any batch size.

    Raises:
        UserError: the text has another form.
    """
    if text is None:
        return Shape()
    wrong = UserError.expected(
        "--shape like 224, 8,3,224,224 or -1,224,224,3 (square images, -1: any batch size)",
        text,
        "Correct --shape",
    )
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        raise wrong from None
    batch, layout, sides = None, None, sizes
    if len(sizes) == 4:
        if sizes[1] == CHANNELS:
            layout, sides = "NCHW", sizes[2:]
        elif sizes[3] == CHANNELS:
            layout, sides = "NHWC", sizes[1:3]
        batch = None if sizes[0] == -1 else sizes[0]
    smallest = min(*sides, 1 if batch is None else batch)
    if len(sides) > 2 or len(set(sides)) != 1 or smallest < 1:
        raise wrong
    return Shape(batch, sides[0], layout)


def command_line() -> CommandLine:
    """Returns the flags of the program."""
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
    about = "ONNX or Keras file to write, instead of --output_dir."
    flags.string("output_file", None, about, default_text="ARCH.onnx or ARCH.keras")
    formats = (*FORMATS, "MINDIR", "AIR")
    about = "Format to write; MINDIR and AIR are not supported."
    by_suffix = "by the suffix of --output_file, else that of the --config"
    flags.enum("file_format", None, formats, about, default_text=by_suffix)
    about = "Layout of the input images."
    flags.enum("layout", None, tuple(LAYOUTS), about, default_text="that of --shape, else NHWC")
    about = (
        "logits: sum of both heads; probabilities: softmax of it; heads: the sum and both heads."
    )
    flags.enum("outputs", "logits", OUTPUTS, about)
    about = "Shape of the input: 224, 8,3,224,224 or -1,224,224,3; a batch size only in ONNX files."
    flags.string("shape", None, about, default_text="--image_size, any batch size")
    about = f"Version of the operators in an ONNX file, {OPSETS[0]} to {OPSETS[-1]}."
    flags.integer("opset", None, about, default_text=str(OPSETS[-1]))
    about = "Compares an ONNX file in ONNX Runtime with TensorFlow, and prints the difference."
    flags.boolean("verify", False, about)
    add_precision_flag(flags)
    about = "File of class names to store in the export."
    flags.string("imagenet_label_file", None, about, default_text="the checkpoint's, else numbers")
    flags.group("Model")
    flags.integer("seed", 0, "Seed of initial weights if no checkpoint is given.")
    add_weights_flag(flags)
    add_config_flags(flags)
    return flags


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values, rest = command_line().parse(argv)
    shape = parse_shape(values.shape)
    source = _config_options(values, rest, shape)
    checkpoint = named_checkpoint(checkpoint_of(values), source)
    config = with_recipe(checkpoint, source).load()
    file_format, path = _target(values, config)
    only_onnx = {"opset": values.opset, "verify": values.verify or None, "shape": shape.batch}
    given = [f"--{name}" for name, value in only_onnx.items() if value is not None]
    if given and file_format != "ONNX":
        raise UserError.expected(
            f"--file_format=ONNX with {' and '.join(given)}", file_format, "Leave them out"
        )
    if values.precision != "fp32" and file_format != "SAVEDMODEL":
        raise UserError.expected(
            f"--file_format=SAVEDMODEL with --precision={values.precision}",
            file_format,
            "Leave --precision out, and convert the file with tools.cli.convert "
            f"--quant_precision={values.precision}",
        )
    opset = OPSETS[-1] if values.opset is None else values.opset
    check_opset(opset)
    number = config.model.num_classes
    classes = named_by(own_classes(checkpoint), values.imagenet_label_file, number)
    if checkpoint:
        policy, use_ema = POLICIES[values.precision], config.run.use_ema
        model = load_model(config.model, checkpoint, policy, use_ema)
        if model.dtype_policy.name != policy:
            raise UserError.expected(
                f"weights without a precision of their own with --precision={values.precision}",
                f"{checkpoint} in {precision_of_policy(model.dtype_policy.name)}",
                f"Give --precision={precision_of_policy(model.dtype_policy.name)}, or the file of "
                "which it was made",
            )
    else:
        model = initial_model(config.model, values.seed, POLICIES[values.precision])
    layout = values.layout or shape.layout or "NHWC"
    options = {"classes": classes, "layout": layout, "outputs": values.outputs}
    if file_format == "SAVEDMODEL":
        export_saved_model(model, config, path, **options)
    else:
        with scratch_folder(path) as folder:
            if file_format == "ONNX":
                saved = folder / "saved_model"
                pipeline = export_saved_model(model, config, saved, **options)
                how = {"opset": opset, "batch": shape.batch, "verify": values.verify}
                difference = export_onnx(saved, pipeline, path, **how)
                if difference:
                    print(
                        f"ONNX Runtime differs from TensorFlow by at most {difference.largest:.1e} "
                        f"(largest value {difference.value:.3g}, {difference.rows} random inputs)",
                        file=sys.stderr,
                    )
            else:
                file = folder / f"model{FORMATS[file_format]}"
                model.save(file)
                describe_keras(file, pipeline_description(config, model, **options))
                write_bytes(path, file.read_bytes())
    print(f"exported {checkpoint or 'initial weights'} to {path}", file=sys.stderr)
    return 0


def _config_options(values: SimpleNamespace, rest: list[str], shape: Shape) -> ConfigOptions:
    """Returns the options of the configuration from the flags and the positional arguments."""
    source = config_options(values)
    if len(rest) == 1 and (found := _MMPRETRAIN.fullmatch(Path(rest[0]).name)):
        arch = f"conformer_{found['size']}_patch{found['patch']}"
        print(f"{rest[0]} is not read: its name means --arch={arch}", file=sys.stderr)
        source = source.with_words(arch=values.arch or arch)
    elif rest:
        raise UserError.expected("only flags", " ".join(rest), "See --help")
    if shape.layout and values.layout not in (None, shape.layout):
        raise UserError.expected(
            f"--shape of the layout {values.layout}", values.shape, "Correct one of them"
        )
    if shape.side is None:
        return source
    if values.image_size not in (None, str(shape.side)):
        raise UserError.expected(
            f"--image_size {shape.side}, as in --shape", values.image_size, "Correct one of them"
        )
    return source.with_words(image_size=str(shape.side))


def _target(values: SimpleNamespace, config: VisionConfig) -> tuple[str, Path]:
    """Returns the format and the path to write."""
    suffix = Path(values.output_file or "").suffix.lower()
    known = {ending: name for name, ending in FORMATS.items() if ending}
    file_format = values.file_format or known.get(suffix) or config.run.file_format
    if file_format not in FORMATS:
        raise UserError.expected(
            f"--file_format {', '.join(FORMATS)}",
            f"{file_format}, which only MindSpore can write",
            "Export ONNX",
        )
    name = config.model.arch + FORMATS[file_format]
    if not values.output_file:
        folder = Path(values.output_dir or ".")
        is_folder = file_format == "SAVEDMODEL"
        return file_format, Path(values.output_dir or name) if is_folder else folder / name
    if values.output_dir:
        raise UserError.expected("--output_dir or --output_file", "both", "Leave one out")
    if known.get(suffix) != file_format:
        ending = FORMATS[file_format] or "a folder, as --output_dir"
        raise UserError.expected(
            f"{ending} for the format {file_format}",
            f"--output_file={values.output_file}",
            "Correct --output_file or --file_format",
        )
    return file_format, Path(values.output_file)


def cli() -> NoReturn:
    """Runs the program from the shell and exits."""
    run(main)


if __name__ == "__main__":
    cli()
