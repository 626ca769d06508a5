"""The files of the deployment pipeline on raw tensors, between its programs.

    DATA/bin_om_input/bsN/batch_I.bin       waveforms [B, S] float32, zeros behind each
    DATA/bin_om_input/bsN/lengths.json      samples of each row, by the name of the batch
    DATA/bin_om_input/bsN/preparation.json  what was done to the sound: see `Preparation`
    DATA/batch_i_filename_map_bsN.json      utterance ids of each row, by the name of the batch
    DATA/ground_truth_texts.txt             lines "ID THE WORDS"
    DATA/bin_om_output/bsN/batch_I.bin      logits [B, T, V] float32
    DATA/bin_om_output/bsN/outputs.json     frames of each row, what the model says of itself, and
                                            what names the utterances

A batch may have fewer than N rows, and S is a multiple of the sample length.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from tools.errors import UserError
from tools.files import to_json, write_text
from tools.inference.raw_tensors import PREPARATION_FILE

DEFAULT_DIR = "wav2vec2_savedmodel"  # of an export
LENGTHS_FILE, OUTPUTS_FILE = "lengths.json", "outputs.json"
TEXTS_FILE = "ground_truth_texts.txt"


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a folder of waveforms holds.

    Attributes:
        sample_rate_hz: of the waveforms.
        utterances: names the utterances of all rows; see `name_of`.
        mean: what was taken from each row, by the name of the batch.
        deviation: what each row was then divided by, likewise.
    """

    sample_rate_hz: int
    utterances: str
    mean: Mapping[str, Sequence[float]]
    deviation: Mapping[str, Sequence[float]]

    def write(self, folder: Path) -> None:
        """Writes the file of a folder."""
        write_json(folder / PREPARATION_FILE, asdict(self))

    def sound(self, batch: str, waveforms: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """Gives the waveforms `[B, S]` of a batch as they were before; models prepare their own."""
        rows = np.array([self.mean[batch], self.deviation[batch]], np.float64)[:, :, None]
        inside = np.arange(waveforms.shape[1]) < np.array(lengths)[:, None]
        return np.where(inside, waveforms * rows[1] + rows[0], 0.0).astype(np.float32)


def read_preparation(folder: Path, lengths: Mapping[str, Sequence[int]]) -> Preparation:
    """Reads what was done to the waveforms of a folder.

    Args:
        folder: of wav2vec2.preprocess.
        lengths: samples of each row, by the name of the batch.

    Raises:
        UserError: it is not there, or of other batches.
    """
    path = folder / PREPARATION_FILE
    content = read_json(path, "wav2vec2.preprocess")
    sizes = {name: len(rows) for name, rows in lengths.items()}

    def fits(moments: object) -> bool:
        return isinstance(moments, dict) and sizes == {
            name: len(rows) if isinstance(rows, list) and {*map(type, rows)} == {float} else 0
            for name, rows in moments.items()
        }

    if (
        content.keys() != {x.name for x in fields(Preparation)}
        or type(content["sample_rate_hz"]) is not int
        or not isinstance(content["utterances"], str)
        or not fits(content["mean"])
        or not fits(content["deviation"])
    ):
        raise UserError.expected(
            f"rate, mean and deviation of the {len(lengths)} batches in {path}",
            "something else",
            "Run `python -m wav2vec2.preprocess` again",
        )
    return Preparation(**content)


def name_of(names: Mapping[str, Sequence[str]]) -> str:
    """Names the utterances of batches, so that those of another corpus or order differ."""
    return hashlib.sha256(to_json(names).encode()).hexdigest()


def map_file(batch_size: int) -> str:
    """The name of the file that maps batches to utterances."""
    return f"batch_i_filename_map_bs{batch_size}.json"


def write_json(path: Path, content: Mapping) -> None:
    """Writes a file that `read_json` reads."""
    write_text(path, to_json(content) + "\n")


def read_json(path: Path, program: str) -> dict:
    """Reads a file of the pipeline.

    Args:
        path: of the file.
        program: which one writes it.

    Raises:
        UserError: it is not there, or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "no JSON"
        raise UserError.expected(
            f"{path.name} of {program}", f"{path}: {reason}", f"Run `python -m {program}` first"
        ) from error
    if not isinstance(content, dict):
        raise UserError.expected(f"batches by name in {path}", "something else", "Write it again")
    return content


def read_batch(path: Path, rows: int, row_values: int) -> np.ndarray:
    """Reads a batch of float32.

    Args:
        path: of the file.
        rows: how many it has.
        row_values: a row has so many, or a multiple of them.

    Returns:
        `[rows, values]`.

    Raises:
        UserError: no such file, or of another size.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError.expected(
            "a file for every batch", f"{path}: {error.strerror}", "Run the step before again"
        ) from error
    if not raw or rows < 1 or len(raw) % (4 * rows * row_values):
        raise UserError.expected(
            f"{rows} rows of a multiple of {row_values} float32 in {path}",
            f"{len(raw)} bytes",
            "Run the step before again, with the same --batch_size",
        )
    return np.frombuffer(raw, "<f4").reshape(rows, -1)


_KINDS = {int: "whole numbers", str: "texts"}


def check_rows(batches: Mapping[str, Sequence], batch_size: int, kind: type, path: Path) -> None:
    """Refuses batches that are none, larger than they should be, or not of one kind of items."""
    sizes = [
        len(rows) if isinstance(rows, list) and {*map(type, rows)} == {kind} else 0
        for rows in batches.values()
    ]
    if not sizes or not 1 <= min(sizes) <= max(sizes) <= batch_size:
        raise UserError.expected(
            f"batches of 1 to {batch_size} {_KINDS[kind]} in {path}",
            f"{min(sizes)} to {max(sizes)}" if sizes else "none",
            "Correct --batch_size",
        )


def check_place(folder: Path, own_file: str, flag: str) -> None:
    """Refuses to write where something else lies than an earlier output of the same program.

    Args:
        folder: to write.
        own_file: what an earlier output holds.
        flag: that names the folder.
    """
    if folder.is_dir() and ((folder / own_file).exists() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise UserError.expected(
            f"a --{flag} that is new, or of an earlier run", folder, "Choose another"
        )
