"""Checks that a resumed run has the same data and settings as before."""

import hashlib
from collections.abc import Collection, Iterable

from tools.config.loader import leaf_values
from tools.errors import UserError
from tools.training.checkpoint import Checkpoint
from tools.training.task import Task
from tools.weights.assignment import check_tensors


def data_digest(rows: Iterable[object]) -> str:
    """Returns a hash of a training set, 16 hexadecimal digits; depends on the order of rows.

    Args:
        rows: description of each row, such as file name, length and label.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row!r}\n".encode())
    return digest.hexdigest()[:16]


def check_data(resumed: Checkpoint, task: Task) -> None:
    """Checks that the training data is that of the checkpoint; its folder may differ.

    Accepts checkpoints that do not contain a digest of their data.

    Args:
        resumed: checkpoint from which the run continues.
        task: task of the resuming run.

    Raises:
        UserError: the data differs.
    """
    known = resumed.state.get("data")
    if known not in (None, task.data_digest):
        raise UserError.expected(
            f"the training data of {resumed.path}",
            "data with other files, lengths or labels, or with other limits",
            "Name the data that the run was trained on, or start a new run with --pretrained",
        )


def check_weights(resumed: Checkpoint, task: Task) -> None:
    """Checks that a checkpoint has the weights of the task's model.

    Call it before the run's files are written, so that a refused run keeps its config.

    Args:
        resumed: checkpoint from which the run continues.
        task: task of the resuming run.

    Raises:
        UserError: names or shapes of the weights differ, or a weight is not finite.
    """
    shapes = {v.path: tuple(v.shape) for v in task.model.weights}
    check_tensors(shapes, resumed.arrays("model"), str(resumed.path))


def check_config(
    resumed: Checkpoint,
    before: object,
    now: object,
    *,
    keys: Iterable[str],
    unset: Collection[str] = (),
) -> None:
    """Checks that a config keeps the settings that a resumed run must not change.

    Args:
        resumed: checkpoint from which the run continues.
        before: config of the checkpoint.
        now: config of the resuming run.
        keys: dotted keys of sections or values that must be equal.
        unset: dotted keys of values in `now` that the user has not set; they may differ.

    Raises:
        UserError: a value differs.
    """
    old, new = leaf_values(before), leaf_values(now)
    for name, value in old.items():
        defines = any(name == key or name.startswith(f"{key}.") for key in keys)
        if defines and name not in unset and new[name] != value:
            raise UserError.expected(
                f"{name} {value}, as in the run of {resumed.path}",
                new[name],
                "Keep the value, or start a new run with --pretrained",
            )
