"""Tensors from files through a model: checked, padded to what it takes, and timed."""

import time
from collections.abc import Mapping

import numpy as np

from tools.conversion.dim_range import check_inputs, pad_to
from tools.errors import UserError
from tools.inference.runner import Runner
from tools.inference.session import Session


def run_timed(
    model: Runner | Session, signature: str, inputs: Mapping[str, np.ndarray], seconds: list[float]
) -> dict[str, np.ndarray]:
    """Runs a batch and appends the time of the runtime alone to `seconds`.

    What is smaller than a size that the model fixes is padded with zeros.
    """
    numbers = [spec for spec in model.signatures[signature] if spec.dtype != "string"]
    padded = pad_to(inputs, numbers)
    check_inputs({spec.name: padded[spec.name] for spec in numbers}, numbers)
    started = time.perf_counter()
    try:
        outputs = model.run(padded, signature)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError.expected("inputs it can run on", reason, "Correct them") from error
    seconds.append(time.perf_counter() - started)
    return outputs
