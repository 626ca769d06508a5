"""Random inputs for models."""

from collections.abc import Mapping, Sequence

import numpy as np

from tools.conversion.protocol import LENGTHS, TensorSpec


def random_inputs(
    specs: Sequence[TensorSpec], shapes: Mapping[str, Sequence[int]], seed: int = 0
) -> dict[str, np.ndarray]:
    """Makes random inputs for a signature.

    Floats are normally distributed with standard deviation 0.1, bytes are uniformly distributed.
    Other integers are 0, an index that every table has. `lengths` are the largest size of the axes
    behind the batch, so that no row is padded.

    Args:
        specs: inputs of the signature; strings are not supported.
        shapes: shape of each input by name.
        seed: seed of the random numbers.
    """
    rng, inputs = np.random.default_rng(seed), {}
    longest = max((shape[1] for shape in shapes.values() if len(shape) > 1), default=1)
    for name, dtype, _ in specs:
        shape = shapes[name]
        if name == LENGTHS:
            values = np.full(shape, longest)
        elif np.dtype(dtype).kind == "f":
            values = 0.1 * rng.standard_normal(shape)
        elif dtype == "uint8":
            values = rng.integers(0, 256, shape)
        else:
            values = np.zeros(shape)
        inputs[name] = values.astype(dtype)
    return inputs
