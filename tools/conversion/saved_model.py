"""Writes and loads SavedModels."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import tensorflow as tf

from tools.amounts import counted
from tools.conversion.pipeline import PIPELINE_FILE
from tools.conversion.protocol import TensorSpec
from tools.errors import UserError
from tools.files import new_folder, to_json

_EXPORTED = {"saved_model.pb", "fingerprint.pb", "variables", "assets"}


def limit_threads(threads: int | None) -> None:
    """Sets the number of threads of TensorFlow.

    Args:
        threads: number of threads of an operator; None changes nothing.

    Raises:
        UserError: TensorFlow has already run in this process with another number of threads.
    """
    if threads is None or tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        raise UserError.expected(
            "--threads before TensorFlow runs anything in this process",
            threads,
            "Open this model first, or leave --threads out",
        ) from None


def write_saved_model(
    output_dir: str | Path,
    functions: Mapping[str, tf.types.experimental.PolymorphicFunction],
    weights: Iterable,
    pipeline: Mapping,
) -> None:
    """Writes a SavedModel that needs only TensorFlow. It is written completely or not at all.

    Other files in the directory of an earlier export, such as a model card, are kept.

    Args:
        output_dir: new directory, or directory of an earlier export, which is replaced.
        functions: `tf.function`s with input signatures, by the names of the signatures.
        weights: Keras variables that the functions read. Only their values are exported.
        pipeline: content of `pipeline.json`, which converters, runners and servers read.

    Raises:
        UserError: the directory holds something else, or cannot be written.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not (output_dir / "saved_model.pb").is_file():
        raise UserError.expected(
            "an --output_dir that is new or an earlier export", output_dir, "Choose another"
        )
    module = tf.Module()
    module.weights = [variable.value for variable in weights]
    concrete = {name: function.get_concrete_function() for name, function in functions.items()}
    with new_folder(output_dir, replace=True) as folder:
        try:
            tf.saved_model.save(module, str(folder), concrete)
        except tf.errors.OpError as error:
            raise OSError(error) from error
        (folder / "assets").mkdir(exist_ok=True)
        (folder / "assets" / PIPELINE_FILE).write_text(to_json(pipeline, indent=1))
        for path in output_dir.iterdir() if output_dir.exists() else ():
            if path.name not in _EXPORTED:
                copy = shutil.copytree if path.is_dir() else shutil.copy2
                copy(path, folder / path.name)


@contextlib.contextmanager
def _plain_path(model_dir: Path) -> Iterator[Path]:
    """Yields a path of a directory without special characters of glob patterns.

    TensorFlow 2.16 uses the path of variables as a glob pattern. To be removed when
    `tf.saved_model.load` can read from a directory called `[1]`.
    """
    if not set(str(model_dir.absolute())) & set("[]*?\\"):
        yield model_dir
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "model"
        link.symlink_to(model_dir.absolute(), target_is_directory=True)
        yield link


def _check_finite(
    functions: Iterable[tf.types.experimental.ConcreteFunction], model_dir: str | Path
) -> None:
    """Checks that no variable of a SavedModel has NaN or infinite values."""
    variables = {id(x): x for function in functions for x in function.variables}.values()
    floats = [x for x in variables if x.dtype.is_floating]
    bad = sum(not bool(tf.reduce_all(tf.math.is_finite(x))) for x in floats)
    if bad:
        raise UserError.expected(
            f"finite weights in {model_dir}",
            f"NaN or infinity in {bad} of {counted(len(floats), 'variable')}",
            "Export another checkpoint, from before the training diverged",
        )


def load_saved_model(model_dir: str | Path) -> Mapping[str, tf.types.experimental.ConcreteFunction]:
    """Loads the functions of a SavedModel.

    Args:
        model_dir: directory of the SavedModel.

    Returns:
        Concrete functions by the names of their signatures.

    Raises:
        UserError: the directory is damaged, or a weight is not finite.
    """
    try:
        with _plain_path(Path(model_dir)) as path:
            loaded = tf.saved_model.load(str(path))
    # TensorFlow 2.16 raises IndexError if the file of variables is truncated.
    except (OSError, ValueError, IndexError, tf.errors.OpError) as error:
        raise UserError.expected(
            f"a readable SavedModel in {model_dir}",
            str(error).splitlines()[0],
            "Export the model again",
        ) from error
    functions = dict(loaded.signatures)
    _check_finite(functions.values(), model_dir)
    for function in functions.values():
        function.keep_alive = loaded  # the variables are deleted together with this object
    return functions


def input_specs(function: tf.types.experimental.ConcreteFunction) -> tuple[TensorSpec, ...]:
    """Returns the inputs of a signature, sorted by name.

    Args:
        function: concrete function, from a SavedModel or before the export.
    """
    by_place, by_name = function.structured_input_signature
    specs = {spec.name: spec for spec in by_place} | by_name
    return tuple(
        TensorSpec(name, spec.dtype.name, tuple(spec.shape.as_list()))
        for name, spec in sorted(specs.items())
    )
