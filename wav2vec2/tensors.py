"""Files of the raw-tensor pipeline: `preprocess`, `compile` and `postprocess` exchange them.

    DATA/bin_om_input/bsN/batch_I.bin       waveforms [B, S] float32, padded with zeros
    DATA/bin_om_input/bsN/lengths.json      samples of each row, by name of the batch
    DATA/bin_om_input/bsN/preparation.json  preprocessing of the waveforms: see `Preparation`
    DATA/batch_i_filename_map_bsN.json      utterance ids of the rows, by name of the batch
    DATA/ground_truth_texts.txt             lines "ID TRANSCRIPT"
    DATA/bin_om_output/bsN/batch_I.bin      logits [B, T, V] float32
    DATA/bin_om_output/bsN/outputs.json     frames of each row, description of the model, and hash
                                            of the utterance ids

N is the batch size; the last batch can be smaller. S is a multiple of the sample length.
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

DEFAULT_DIR = "wav2vec2_savedmodel"  # default output directory of wav2vec2.export
LENGTHS_FILE, OUTPUTS_FILE = "lengths.json", "outputs.json"
TEXTS_FILE = "ground_truth_texts.txt"


@dataclass(frozen=True, slots=True)
class Preparation:
    """Preprocessing of the waveforms in a folder.

    Attributes:
        sample_rate_hz: sample rate of the waveforms.
        utterances: hash of the utterance ids of all rows, see `name_of`; empty if not known.
        mean: mean that was subtracted from each row, by name of the batch.
        deviation: standard deviation that each row was divided by, by name of the batch.
    """

    sample_rate_hz: int
    utterances: str
    mean: Mapping[str, Sequence[float]]
    deviation: Mapping[str, Sequence[float]]

    def write(self, folder: Path) -> None:
        """Writes `preparation.json` to a folder."""
        write_json(folder / PREPARATION_FILE, asdict(self))

    def sound(self, batch: str, waveforms: np.ndarray, lengths: Sequence[int]) -> np.ndarray:
        """Reverses the normalization of a batch `[B, S]`. Exported models normalize themselves."""
        rows = np.array([self.mean[batch], self.deviation[batch]], np.float64)[:, :, None]
        inside = np.arange(waveforms.shape[1]) < np.array(lengths)[:, None]
        return np.where(inside, waveforms * rows[1] + rows[0], 0.0).astype(np.float32)


def read_preparation(folder: Path, lengths: Mapping[str, Sequence[int]]) -> Preparation:
    """Reads the preprocessing of the waveforms in a folder.

    Args:
        folder: folder written by `wav2vec2.preprocess`.
        lengths: samples of each row, by name of the batch.

    Raises:
        UserError: the file is missing or belongs to other batches.
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
            "other content",
            "Run `python -m wav2vec2.preprocess` again",
        )
    return Preparation(**content)


def read_inputs(folder: Path, batch_size: int) -> tuple[dict[str, list[int]], Preparation]:
    """Reads the lengths and the preprocessing of the batches in a folder.

    A folder of the original project has neither file: then all rows count as whole, at 16 kHz.

    Args:
        folder: folder with a file `batch_I.bin` for each batch.
        batch_size: largest number of rows of a batch; of the original: the number of rows.

    Returns:
        The samples of each row by name of the batch, and the preprocessing.

    Raises:
        UserError: a file is missing, or does not fit the others.
    """
    if not any((folder / name).exists() for name in (LENGTHS_FILE, PREPARATION_FILE)):
        names = sorted(
            (path.stem for path in folder.glob("batch_*.bin")), key=lambda x: (len(x), x)
        )
        sizes = {x: read_batch(folder / f"{x}.bin", batch_size, 1).shape[1] for x in names}
        lengths = {name: [size] * batch_size for name, size in sizes.items()}
        moments = ({name: [x] * batch_size for name in names} for x in (0.0, 1.0))
        if lengths:
            return lengths, Preparation(16000, "", *moments)
    lengths = read_json(folder / LENGTHS_FILE, "wav2vec2.preprocess")
    check_rows(lengths, batch_size, int, folder / LENGTHS_FILE)
    return lengths, read_preparation(folder, lengths)


def name_of(names: Mapping[str, Sequence[str]]) -> str:
    """Returns a hash of the utterance ids of all batches and their order."""
    return hashlib.sha256(to_json(names).encode()).hexdigest()


def map_file(batch_size: int) -> str:
    """Returns the name of the file that maps batches to utterance ids."""
    return f"batch_i_filename_map_bs{batch_size}.json"


def write_json(path: Path, content: Mapping) -> None:
    """Writes a JSON file, which `read_json` reads."""
    write_text(path, to_json(content) + "\n")


def read_json(path: Path, program: str) -> dict:
    """Reads a JSON file of the pipeline.

    Args:
        path: path of the file.
        program: program that writes it, for error messages.

    Raises:
        UserError: the file is missing or has other content.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or "not a JSON file"
        raise UserError.expected(
            f"{path.name} of {program}", f"{path}: {reason}", f"Run `python -m {program}` first"
        ) from error
    if not isinstance(content, dict):
        raise UserError.expected(
            f"batches by name in {path}", "other content", "Run the previous step again"
        )
    return content


def read_batch(path: Path, rows: int, row_values: int) -> np.ndarray:
    """Reads a batch of float32 values.

    Args:
        path: path of the file.
        rows: number of rows.
        row_values: the number of values in a row is a multiple of this.

    Returns:
        `[rows, values]` float32.

    Raises:
        UserError: the file cannot be read or has another size.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError.expected(
            "a file for every batch", f"{path}: {error.strerror}", "Run the previous step again"
        ) from error
    if not raw or rows < 1 or len(raw) % (4 * rows * row_values):
        raise UserError.expected(
            f"{rows} rows of float32, the length a multiple of {row_values}, in {path}",
            f"{len(raw)} bytes",
            "Run the previous step again with the same --batch_size",
        )
    return np.frombuffer(raw, "<f4").reshape(rows, -1)


_KINDS = {int: "whole numbers", str: "texts"}


def check_rows(batches: Mapping[str, Sequence], batch_size: int, kind: type, path: Path) -> None:
    """Checks rows of batches.

    Args:
        batches: items of the rows by name of the batch.
        batch_size: largest number of rows of a batch.
        kind: type of the items.
        path: file of the batches, for error messages.

    Raises:
        UserError: a batch is empty, is too large or has items of another type.
    """
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
    """Checks that an output folder is new or contains an earlier output of the same program.

    Args:
        folder: folder to write to.
        own_file: name of a file that identifies an earlier output.
        flag: flag of the folder, for error messages.

    Raises:
        UserError: the folder has other content.
    """
    if folder.is_dir() and ((folder / own_file).exists() or not any(folder.iterdir())):
        return
    if folder.exists():
        raise UserError.expected(
            f"a --{flag} that is new, or of an earlier run", folder, "Select another folder"
        )
