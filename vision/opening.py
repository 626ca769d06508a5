"""Opens a classifier from a checkpoint, an exported or converted model, or an ONNX file."""

from tools.conversion.pipeline import describe
from tools.errors import UserError
from tools.inference.opening import open_runner, restrict_devices
from tools.inference.runner import Runner
from vision.classes import Classes, classes_of
from vision.config import preprocessing_of
from vision.options import ClassifierOptions
from vision.recipe import named_checkpoint, own_classes, with_recipe
from vision.session import FAMILY, ImageSession, calibration_examples

_SOURCES = ("checkpoint", "native_savedmodel_dir", "onnx_path")


def open_classifier(options: ClassifierOptions, signature: str = "serving_default") -> ImageSession:
    """Opens the model that the options name.

    The architecture and preprocessing of a checkpoint come from the configuration. Exported models
    contain both.

    Args:
        options: the model and the runtime options.
        signature: signature to build for a checkpoint.

    Raises:
        UserError: the options name no model or several models, or the model cannot be opened.
    """
    exported = options.native_savedmodel_dir or options.onnx_path
    checkpoint = options.checkpoint
    if not exported:
        checkpoint = named_checkpoint(checkpoint, options.config)
    sources = {name: getattr(options, name) for name in _SOURCES} | {"checkpoint": checkpoint}
    named = [name for name, value in sources.items() if value]
    if len(named) != 1:
        raise UserError.expected(
            f"exactly one of {', '.join(f'--{name}' for name in _SOURCES)}",
            " and ".join(f"--{name}" for name in named) or "none",
            "Give one model",
        )
    if exported and "use_ema" in options.config.words:
        raise UserError.expected(
            "--use_ema with a --checkpoint, which can have two sets of weights",
            f"{exported}, which has one set of weights",
            "Leave --use_ema out",
        )
    runner = None
    if options.native_savedmodel_dir:  # after all checks, because opening can convert the model
        pipeline = describe(options.native_savedmodel_dir, FAMILY)
    else:
        restrict_devices(options.runner.visible_devices)
        runner = _open_file(options, checkpoint, signature)
        pipeline = runner.pipeline
    preprocessing = preprocessing_of(pipeline["preprocessing"], options.config.words)
    side = pipeline["preprocessing"]["image_size"]
    if preprocessing.image_size != side:
        raise UserError.expected(
            f"--image_size {side}, as in the model",
            preprocessing.image_size,
            "Leave --image_size out, or export a model of this size",
        )
    classes = classes_of(pipeline, options.imagenet_label_file)
    if runner is None:
        place = options.native_savedmodel_dir
        runner = open_runner(place, options.runner, calibration_examples)
    return ImageSession(runner, preprocessing, classes, batch_size=options.runner.batch_size)


def known_classes(options: ClassifierOptions) -> tuple[Classes, int] | None:
    """Returns the classes of an exported model and their number without opening the model.

    Returns None for checkpoints and ONNX files.
    """
    if not options.native_savedmodel_dir:
        return None
    pipeline = describe(options.native_savedmodel_dir, FAMILY)
    return classes_of(pipeline, options.imagenet_label_file), pipeline["num_classes"]


def _open_file(options: ClassifierOptions, checkpoint: str | None, signature: str) -> Runner:
    """Opens a checkpoint in TensorFlow, or an ONNX file in ONNX Runtime, without conversion."""
    runner = options.runner
    if runner.quant_precision not in (None, "fp32") or runner.converted_savedmodel_dir:
        raise UserError.expected(
            "--native_savedmodel_dir for a converted model",
            "a checkpoint or an ONNX file",
            "Export a SavedModel with `python -m vision.export`",
        )
    config = with_recipe(checkpoint, options.config).load()
    if options.onnx_path:
        from vision.onnx_runner import ImageOnnxRunner

        return ImageOnnxRunner(options.onnx_path, config)
    # Import TensorFlow for checkpoints only: converted models run without it.
    from tools.inference.eager import EagerRunner
    from vision.checkpoint import load_model
    from vision.signatures import Signatures, pipeline_description

    model = load_model(config.model, checkpoint, options.precision, config.run.use_ema)
    functions = Signatures(model, config.preprocessing, Classes()).concrete([signature])
    description = pipeline_description(config, model, own_classes(checkpoint))
    return EagerRunner(functions, description)
