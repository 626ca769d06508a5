"""Checkpoints: the complete state of a training run.

A checkpoint `step-00001234/` contains `arrays.npz` (variables by name), `state.json` (step, data
position, metrics ...) and the text files of the task. The folder appears only when it is complete.
Its content does not depend on the number of processes, the batch size or the precision.
"""

import json
import logging
import math
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.errors import UserError
from tools.files import to_json
from tools.weights.assignment import check_tensors

logger = logging.getLogger(__name__)

_PREFIX, _UNFINISHED = "step-", ".unfinished-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint on disk. Arrays are read on request.

    Attributes:
        path: folder of the checkpoint.
        state: content of `state.json`.
    """

    path: Path
    state: dict

    @property
    def step(self) -> int:
        """Number of training steps before the checkpoint."""
        return self.state["step"]

    def arrays(self, group: str) -> dict[str, np.ndarray]:
        """Reads the arrays of a group by name.

        Args:
            group: `model`, `optimizer`, `average` or `loss_scale`. A group may be empty.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            with (
                (self.path / "arrays.npz").open("rb") as stream,
                np.load(stream, allow_pickle=False) as file,
            ):
                names = [name for name in file.files if name.startswith(group + "/")]
                return {name.removeprefix(group + "/"): file[name] for name in names}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise UserError.expected(
                f"the arrays of a checkpoint in {self.path}", error, "Choose another checkpoint"
            ) from error

    def check(self) -> None:
        """Reads the whole checkpoint once to check that it is complete.

        Raises:
            UserError: a file is missing or damaged.
        """
        for group in ("model", "optimizer", "average", "loss_scale"):
            self.arrays(group)
        for name, num_bytes in self.state.get("asset_bytes", {}).items():
            received = len(self.asset(name).encode())
            if received != num_bytes:
                expected = f"{num_bytes} bytes in {self.path / name}"
                raise UserError.expected(expected, received, "Choose another checkpoint")

    def weights(self) -> dict[str, np.ndarray]:
        """Reads the weights for evaluation: the moving average if there is one."""
        return {**self.arrays("model"), **self.arrays("average")}

    def asset(self, name: str) -> str:
        """Reads a text file of the checkpoint, such as `config.yml`.

        Raises:
            UserError: the file cannot be read.
        """
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError.expected(
                f"a file {name} in the checkpoint {self.path}", error, "Choose another checkpoint"
            ) from error


def open_checkpoint(path: str | Path, newest: bool = False) -> Checkpoint:
    """Opens a checkpoint, or selects one in a run directory.

    Args:
        path: checkpoint, run directory, or its folder `checkpoints`.
        newest: in a run directory, whether to select the newest complete checkpoint, as for
            resuming, instead of the best one. Without a best one the newest is selected.

    Raises:
        UserError: there is no checkpoint.
    """
    path = Path(path)
    if not (path / "state.json").is_file():
        inside = path / "checkpoints"
        store = CheckpointStore(inside if inside.is_dir() else path)
        checkpoint = store.latest_whole() if newest else store.best() or store.latest()
        if checkpoint is None:
            raise _no_checkpoint(path)
        return checkpoint
    return _read_checkpoint(path)


def _no_checkpoint(path: Path) -> UserError:
    """Returns the error for a path that is no checkpoint; it names a run in a folder of runs."""
    expected, do = "a run directory or a checkpoint directory", "Give a folder that a training run"
    if not path.exists():
        return UserError.expected(expected, f"{path}, which does not exist", f"{do} has written")
    inside = [x.parents[1] for x in path.glob(f"*/{_PREFIX}*/state.json")]
    inside += [x.parents[2] for x in path.glob(f"*/checkpoints/{_PREFIX}*/state.json")]
    if not inside:
        return UserError.expected(expected, path, f"{do} has written")
    newest = max(inside, key=lambda run: run.stat().st_mtime)
    return UserError.expected(expected, f"{path}, a folder of runs", f"Give one, such as {newest}")


def _read_checkpoint(path: Path) -> Checkpoint:
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not isinstance(state.get("step"), int):
            raise ValueError("no step in it")
        return Checkpoint(path, state)
    except (OSError, ValueError) as error:
        raise UserError.expected(
            f"a readable state.json in {path}", error, "Choose another checkpoint"
        ) from error


def restore(variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Assigns an array to every variable. After an error no variable has changed.

    Args:
        variables: Keras or TensorFlow variables by name.
        arrays: values by the same names, in any float dtype.
        source: where the arrays come from, for the message.

    Raises:
        UserError: names or shapes differ, or a value is not finite.
    """
    check_tensors({name: tuple(v.shape) for name, v in variables.items()}, arrays, source)
    for name, variable in variables.items():
        variable.assign(arrays[name].astype(np.asarray(variable).dtype))


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an `.npz` file. `np.savez` of NumPy 1.26 leaves the file open if the disk is full."""
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _link_files(source: Path, folder: Path) -> None:
    """Puts the files of a folder into another one: as hard links if possible, else as copies."""
    for path in source.iterdir():
        try:
            os.link(path, folder / path.name)
        except OSError:
            shutil.copyfile(path, folder / path.name)


def _rank(checkpoint: Checkpoint) -> tuple[float, int]:
    """Returns a sort key: the best checkpoint comes first, and of equal ones the newest."""
    metric = checkpoint.state["metric"]
    return -metric if checkpoint.state.get("larger_is_better") else metric, -checkpoint.step


class CheckpointStore:
    """The checkpoints of a run: keeps the newest ones and those with the best metric.

    Args:
        directory: folder of the newest checkpoints.
        keep_last: number of newest checkpoints to keep.
        keep_best: number of best checkpoints to keep.
        best_directory: folder of the best checkpoints; None uses `directory`. A checkpoint in both
            folders is stored once, with hard links, if the file system supports them.
    """

    def __init__(
        self,
        directory: Path,
        keep_last: int = 1,
        keep_best: int = 1,
        best_directory: Path | None = None,
    ):
        self.directory = directory
        self.keep_last = keep_last
        self.keep_best = keep_best
        self._passed_over: set[Path] = set()
        self._best = None if best_directory is None else CheckpointStore(best_directory, 0)
        if self._best is not None:
            self._best.keep_best, self.keep_best = keep_best, 0

    def all(self) -> list[Checkpoint]:
        """Returns all checkpoints with a readable state, oldest first.

        Logs a warning, once, for each of the others.

        Raises:
            UserError: there are checkpoints, but none has a readable state.
        """
        found, problem = [], None
        for path in sorted(self.directory.glob(_PREFIX + "*")):
            try:
                found.append(_read_checkpoint(path))
            except UserError as error:
                problem = error
                self._pass_over(path, error)
        if problem is not None and not found:
            raise problem
        return sorted(found, key=lambda c: c.step)

    def latest(self) -> Checkpoint | None:
        """Returns the newest checkpoint, or None."""
        return next(reversed(self.all()), None)

    def latest_whole(self) -> Checkpoint | None:
        """Returns the newest complete checkpoint, or None; logs a warning for newer ones.

        Raises:
            UserError: there are checkpoints, but none is complete.
        """
        problem = None
        for checkpoint in reversed(self.all()):
            try:
                checkpoint.check()
                return checkpoint
            except UserError as error:
                problem = error
                self._pass_over(checkpoint.path, error)
        if problem is not None:
            raise problem
        return None

    def _pass_over(self, path: Path, problem: UserError) -> None:
        if path not in self._passed_over:
            self._passed_over.add(path)
            logger.warning("skipping the damaged checkpoint %s: %s", path, problem)

    def best(self) -> Checkpoint | None:
        """Returns the checkpoint with the best metric, or None; of equal ones the newest."""
        return next(iter((self._best or self)._by_metric()), None)

    def save(
        self, state: Mapping, groups: Mapping[str, Mapping], assets: Mapping[str, str]
    ) -> Checkpoint:
        """Writes a checkpoint and removes those that are no longer kept.

        Args:
            state: values for JSON. `step` determines the name of the checkpoint. `metric`, a number
                or None, ranks it; smaller is better unless `larger_is_better` is set.
            groups: variables by group and name.
            assets: texts by file name.

        Raises:
            UserError: the checkpoint cannot be written; earlier checkpoints are not changed.
        """
        arrays = {
            f"{group}/{key}": np.asarray(variable)
            for group, variables in groups.items()
            for key, variable in variables.items()
        }

        sizes = {file_name: len(text.encode()) for file_name, text in assets.items()}
        state_text = to_json({**state, "asset_bytes": sizes}, indent=1)

        def write(folder: Path) -> None:
            _write_arrays(folder / "arrays.npz", arrays)
            for file_name, text in {**assets, "state.json": state_text}.items():
                (folder / file_name).write_text(text, encoding="utf-8")

        name = f"{_PREFIX}{state['step']:08d}"
        target = self._add(name, write)
        if self._best is not None and state.get("metric") is not None:
            self._best._add(name, lambda folder: _link_files(target, folder))
        return open_checkpoint(target)

    def _add(self, name: str, write: Callable[[Path], None]) -> Path:
        """Calls `write` with a temporary folder, renames it to its place, removes old ones."""
        target, beside = self.directory / name, self.directory / (_UNFINISHED + name)
        try:
            self._remove_unfinished()
            beside.mkdir(parents=True)
            write(beside)
            for path in beside.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            if target.exists():
                target.rename(self.directory / (_UNFINISHED + "old-" + name))
            beside.rename(target)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise UserError.expected(
                f"room and permission to write the checkpoint {target}",
                error.strerror or error,
                "Free some space and resume; earlier checkpoints are intact",
            ) from error
        self._remove_old()
        return target

    def _by_metric(self) -> list[Checkpoint]:
        metrics = ((c, c.state.get("metric")) for c in self.all())
        ranked = [c for c, metric in metrics if metric is not None and math.isfinite(metric)]
        return sorted(ranked, key=_rank)

    def _remove_old(self) -> None:
        everything = self.all()
        last = everything[-self.keep_last :] if self.keep_last else []
        kept = last + self._by_metric()[: self.keep_best]
        kept_paths = {checkpoint.path for checkpoint in kept}
        for checkpoint in everything:
            if checkpoint.path not in kept_paths:
                doomed = self.directory / (_UNFINISHED + checkpoint.path.name)
                checkpoint.path.rename(doomed)
        self._remove_unfinished()

    def _remove_unfinished(self) -> None:
        for path in self.directory.glob(_UNFINISHED + "*"):
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class RunFolders:
    """Folders to which a run writes.

    Attributes:
        records: folder of `metrics.jsonl`, TensorBoard's files and `summary.json`.
        checkpoints: folder of the newest checkpoints.
        best_checkpoints: folder of the best checkpoints; may be the same.
    """

    records: Path
    checkpoints: Path
    best_checkpoints: Path

    @classmethod
    def inside(cls, directory: Path) -> "RunFolders":
        """Returns the folders of a run that writes everything into one directory."""
        return cls(directory, directory / "checkpoints", directory / "checkpoints")

    def store(self, keep_last: int = 1, keep_best: int = 1) -> CheckpointStore:
        """Returns the store of the checkpoints in these folders; see `CheckpointStore`."""
        apart = self.best_checkpoints != self.checkpoints
        best = self.best_checkpoints if apart else None
        return CheckpointStore(self.checkpoints, keep_last, keep_best, best)
