"""Tells whether a launcher such as horovodrun started this process. Imports no TensorFlow."""

import os

_VARIABLES = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


def uses_horovod(use_horovod: bool | None) -> bool:
    """Returns whether this process communicates with others through Horovod.

    Args:
        use_horovod: value of `--use_horovod`. None uses Horovod if `horovodrun` or mpirun has
            started this process.
    """
    if use_horovod is None:
        return any(name in os.environ for name in _VARIABLES)
    return use_horovod
