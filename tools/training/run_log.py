"""Log of a training run: `metrics.jsonl`, TensorBoard, progress bar, and software versions."""

import contextlib
import importlib.metadata
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import tensorflow as tf
from tqdm import tqdm

from tools.errors import UserError
from tools.files import drop_lost_output, to_json, write_text

logger = logging.getLogger(__name__)

_PACKAGES = ("tensorflow", "tensorflow-io", "tensorflow-text", "keras", "horovod", "numpy")


def provenance() -> dict[str, str]:
    """Returns the versions of Python and of the main packages, and the git revision of the code."""
    versions = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        versions["git"] = described.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        versions["git"] = "unknown"
    return versions


def _is_until(line: str, last_step: int) -> bool:
    """Returns whether a line of `metrics.jsonl` is complete and of at most the last step."""
    try:
        return json.loads(line)["step"] <= last_step
    except (ValueError, TypeError, LookupError):  # incomplete after a kill or on a full disk
        return False


class RunLog:
    """Writes the log of a run.

    Args:
        directory: folder of the log; None, as on ranks other than 0, writes and prints nothing.
        first_step: number of steps already run. Records of later steps, from an interrupted run,
            are removed.
        total_steps: number of steps of the whole run, for the progress bar.
        print_every_steps: prints a line every so many steps; 0 prints none.
    """

    def __init__(
        self,
        directory: Path | None,
        first_step: int,
        total_steps: int,
        print_every_steps: int = 0,
    ):
        self._file = self._board = None
        self._last_line = ""
        self._step, self._print_every_steps = first_step, print_every_steps
        self._bar = tqdm(
            initial=first_step,
            total=total_steps,
            unit="step",
            desc="train",
            file=sys.stderr,
            disable=directory is None,
            mininterval=1.0,
            dynamic_ncols=True,
        )
        if directory is None:
            return
        path = directory / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
            write_text(path, "".join(f"{x}\n" for x in lines if _is_until(x, first_step)))
        self._file = path.open("ab", buffering=0)  # unbuffered: a full disk fails at the write
        self._board = tf.summary.create_file_writer(str(directory / "tensorboard"))

    def advance(self, shown: Mapping[str, str]) -> None:
        """Advances the progress bar by a step.

        Args:
            shown: values to show beside it, as text.
        """
        drop_lost_output()
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()
        self._step += 1
        if self._print_every_steps and self._step % self._print_every_steps == 0:
            self.say(f"step {self._step}: {', '.join(f'{k} {v}' for k, v in shown.items())}")

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step to `metrics.jsonl` and TensorBoard.

        Args:
            step: number of training steps so far.
            epoch: number of the epoch, from 0.
            values: numbers by name, such as `train/loss`.

        Raises:
            UserError: they cannot be written.
        """
        if self._file is None:
            return
        line = to_json({"step": step, "epoch": epoch, **values}) + "\n"
        with self._refused():
            self._file.write(line.encode())
            with self._board.as_default(step=step):
                for name, value in values.items():
                    tf.summary.scalar(name, value)

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """Converts errors of the disk and of TensorBoard's writer to UserError."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            problem = getattr(error, "strerror", None) or getattr(error, "message", error)
            raise UserError.expected(
                f"room and permission to write the records of {Path(self._file.name).parent}",
                " ".join(str(problem).split()),
                "Free space and resume from the last checkpoint",
            ) from error

    def say(self, line: str) -> None:
        """Prints a line above the progress bar, and logs it at level DEBUG for log files."""
        if not self._bar.disable:
            tqdm.write(line, file=sys.stderr)
            logger.debug(line)

    def say_last(self, line: str) -> None:
        """Sets the line that `close` prints below the progress bar."""
        self._last_line = line

    def close(self) -> None:
        """Closes the progress bar and the files."""
        last_line, self._last_line = self._last_line, ""
        shown = not self._bar.disable
        self._bar.close()
        if last_line and shown:
            print(last_line, file=sys.stderr)
            logger.debug(last_line)
        if self._file is not None:
            self._file.close()
            with self._refused():
                self._board.close()
