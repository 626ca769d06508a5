"""Calls of a model that are divided among threads."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from tools.decoding.protocol import Call
from tools.threads import run_together

LARGEST_CALL = 64  # hypotheses in one call of a signature; conversions serve batches of 64
_WORTH = 4_000_000  # multiplications for which another thread is worth its start


def num_parts(multiplications: int, num_rows: int, threads: int) -> int:
    """Returns the number of parts of a call.

    Args:
        multiplications: about the number of multiplications of the call.
        num_rows: rows of the call.
        threads: number of threads that may run at the same time.
    """
    return max(1, min(threads, num_rows, multiplications // _WORTH))


def call_in_parts(
    call: Call, inputs: Mapping[str, np.ndarray], signature: str, count: int
) -> Mapping[str, np.ndarray]:
    """Runs a signature on parts of a batch at the same time, and joins the outputs.

    Args:
        call: runs signatures. Several threads must be able to call it at the same time.
        inputs: arrays by name.
        signature: name of the signature.
        count: number of parts.
    """
    if count == 1:
        return call(inputs, signature)
    found: dict[int, Mapping[str, np.ndarray]] = {}

    def run(number: int) -> None:
        part = {name: np.array_split(array, count)[number] for name, array in inputs.items()}
        found[number] = call(part, signature)

    run_together([partial(run, number) for number in range(count)])
    return {
        name: np.concatenate([found[number][name] for number in range(count)]) for name in found[0]
    }
