"""What defines a run, and so must be the same where it is resumed."""

import hashlib
from collections.abc import Collection, Iterable

from tools.config.loader import leaf_values
from tools.errors import UserError
from tools.training.checkpoint import Checkpoint
from tools.training.task import Task


def data_digest(rows: Iterable[object]) -> str:
    """Returns a short digest of what a training set consists of, in its order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row!r}\n".encode())
    return digest.hexdigest()[:16]


def check_data(resumed: Checkpoint, task: Task) -> None:
    """Refuses other training data than that of the checkpoint, wherever it lies.

    Raises:
        UserError: it is other data. A checkpoint that does not tell its data is taken as it is.
    """
    known = resumed.state.get("data")
    if known not in (None, task.data_digest):
        raise UserError.expected(
            f"the training data of {resumed.path}",
            "others: other files, lengths or labels, or other limits of theirs",
            "Name the folder it was trained on, or start another run with --pretrained",
        )


def check_config(
    resumed: Checkpoint,
    before: object,
    now: object,
    *,
    keys: Iterable[str],
    unset: Collection[str] = (),
) -> None:
    """Refuses a config that changes what defines a run.

    Args:
        resumed: the checkpoint that continues.
        before: its config.
        now: that of the run that resumes it.
        keys: sections or values, dotted, that must be equal.
        unset: values of `now`, dotted, that nobody has set; they may differ.

    Raises:
        UserError: one of them differs.
    """
    old, new = leaf_values(before), leaf_values(now)
    for name, value in old.items():
        defines = any(name == key or name.startswith(f"{key}.") for key in keys)
        if defines and name not in unset and new[name] != value:
            raise UserError.expected(
                f"{name} {value}, which the run of {resumed.path} is made with",
                new[name],
                "Leave it as it was, or start another run with --pretrained",
            )
