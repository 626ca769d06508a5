"""Checks, pads and runs tensors that were read from files."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tools.conversion.dim_range import pad_to, shapes_of
from tools.errors import UserError
from tools.inference.runner import Runner
from tools.inference.session import Session

# File beside raw tensors, with the values of `pipeline.json` that they were made with.
PREPARATION_FILE = "preparation.json"


def check_preparation(folder: Path, pipeline: Mapping) -> None:
    """Checks that raw tensors were made for a model, if their folder has a `preparation.json`.

    Args:
        folder: folder of the tensors.
        pipeline: content of the model's `pipeline.json`.

    Raises:
        UserError: a value differs, or the file cannot be read.
    """
    path = folder / PREPARATION_FILE
    if not path.is_file():
        return
    try:
        made_by = dict(_leaves(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError.expected(f"a readable {path}", error, "Make the tensors again") from error
    for name, known in _leaves(pipeline):
        if made_by.get(name, known) != known:
            raise UserError.expected(
                f"tensors made with {name} {known}, as the model takes them",
                f"{name} {made_by[name]} in {path}",
                "Make them again, or choose another model",
            )


def _leaves(content: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields the dotted names and the values of nested mappings."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def run_timed(
    model: Runner | Session, signature: str, inputs: Mapping[str, np.ndarray], seconds: list[float]
) -> dict[str, np.ndarray]:
    """Runs a batch and measures the time of the runtime.

    Args:
        model: an opened model.
        signature: name of the signature to run.
        inputs: arrays by name. Axes that are smaller than a fixed size are padded with zeros before
            the time is measured. A converted model pads further; see `JitRunner`.
        seconds: list to which the time of this run is appended.

    Returns:
        The outputs by name.

    Raises:
        UserError: the inputs do not fit the model, or the runtime fails on them.
    """
    numbers = [spec for spec in model.signatures[signature] if spec.dtype != "string"]
    padded = pad_to(inputs, shapes_of(numbers))
    started = time.perf_counter()
    try:
        outputs = model.run(padded, signature)
    except (RuntimeError, ValueError) as error:
        raise UserError.at_run(error) from error
    seconds.append(time.perf_counter() - started)
    return outputs
