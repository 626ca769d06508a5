"""The records of a run: `metrics.jsonl`, TensorBoard, progress bar, and what it was run with."""

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
    """Tells the versions of the packages and the git revision of the code."""
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
    """Tells whether a line of `metrics.jsonl` is whole and of no later step."""
    try:
        return json.loads(line)["step"] <= last_step
    except (ValueError, TypeError, LookupError):  # a kill or a full disk cut it off
        return False


class RunLog:
    """Writes the records of a run; without a directory, as on ranks other than 0, it is silent.

    Args:
        directory: the run directory, None for silence.
        first_step: steps already made; later lines of an interrupted run are taken back.
        total_steps: of the whole run, for the progress bar.
        print_every_steps: also prints a line so often; 0: never.
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
        self._file = path.open("ab", buffering=0)  # nothing left to write when the disk is full
        self._board = tf.summary.create_file_writer(str(directory / "tensorboard"))

    def advance(self, shown: Mapping[str, str]) -> None:
        """Moves the progress bar by a step."""
        drop_lost_output()
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()
        self._step += 1
        if self._print_every_steps and self._step % self._print_every_steps == 0:
            self.say(f"step {self._step}: {', '.join(f'{k} {v}' for k, v in shown.items())}")

    def write(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Records values of a step."""
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
        """Makes one line of what the disk, or TensorBoard's writer, says."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            problem = getattr(error, "strerror", None) or getattr(error, "message", error)
            raise UserError.expected(
                f"room and permission to write the records of {Path(self._file.name).parent}",
                " ".join(str(problem).split()),
                "Free space and continue from the last checkpoint",
            ) from error

    def say(self, line: str) -> None:
        """Prints a line above the progress bar; log files that are open for it get it too."""
        if not self._bar.disable:
            tqdm.write(line, file=sys.stderr)
            logger.debug(line)

    def say_last(self, line: str) -> None:
        """Prints a line below the progress bar when the records end."""
        self._last_line = line

    def close(self) -> None:
        """Ends the records."""
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
