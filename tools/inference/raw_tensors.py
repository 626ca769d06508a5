"""Tensors from files through a model: checked, padded to what it takes, and timed."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from tools.conversion.dim_range import check_inputs, pad_to, shapes_of
from tools.errors import UserError
from tools.inference.runner import Runner
from tools.inference.session import Session

# Beside raw tensors: values of `pipeline.json` that they were made by.
PREPARATION_FILE = "preparation.json"


def check_preparation(folder: Path, pipeline: Mapping) -> None:
    """Refuses raw tensors that were made for another model, where their folder tells how.

    Args:
        folder: of the tensors.
        pipeline: `pipeline.json` of the model.

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
    """Gives the values of nested mappings by dotted name."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def run_timed(
    model: Runner | Session, signature: str, inputs: Mapping[str, np.ndarray], seconds: list[float]
) -> dict[str, np.ndarray]:
    """Runs a batch and appends the time of the runtime alone to `seconds`.

    What is smaller than a size that the model fixes is padded with zeros.
    """
    numbers = [spec for spec in model.signatures[signature] if spec.dtype != "string"]
    padded = pad_to(inputs, shapes_of(numbers))
    check_inputs({spec.name: padded[spec.name] for spec in numbers}, numbers)
    started = time.perf_counter()
    try:
        outputs = model.run(padded, signature)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError.expected("inputs it can run on", reason, "Correct them") from error
    seconds.append(time.perf_counter() - started)
    return outputs
