"""Finds the sounds that a program recognizes: files and folders, or a corpus."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tools.amounts import counted
from tools.errors import UserError
from tools.inference.options import DataOptions, check_seconds
from tools.inference.selection import share
from tools.speech.audio import AudioError, AudioLimits, chosen_channels, is_known, probe
from tools.speech.channels import MIX, checked_channels
from tools.speech.corpus import SUFFIXES, Utterance, is_transcript_file, read_corpus, walk
from tools.speech.transcripts import normalize_transcript

Skipped = list[tuple[str, str]]  # path and reason of each skipped file
STANDARD_INPUT = "-"
NOT_SOUND = "not_sound"  # reason for files in a folder that are not sounds


def check_options(data: DataOptions, max_seconds: float | None) -> None:
    """Checks options before anything is loaded.

    Args:
        data: options of the program.
        max_seconds: value of `--max_seconds`, or None.

    Raises:
        UserError: an option is missing or out of range, or options exclude each other.
    """
    paths = data.paths
    if bool(paths) == bool(data.data_dir):
        raise UserError.expected(
            "either files and folders or --data_dir",
            "both" if paths else "neither",
            "Name a sound file, or a corpus with --data_dir",
        )
    if data.batch_size < 1 or data.warmup_count < 0:
        raise UserError.expected(
            "--batch_size >= 1 and --warmup_count >= 0",
            f"{data.batch_size} and {data.warmup_count}",
            "Correct the flags",
        )
    check_seconds(max_seconds)
    checked_channels(data.channels)
    if data.data_dir and data.channels != MIX:
        expected = "--channels with files and folders"
        raise UserError.expected(expected, "--data_dir", "Leave one of them out")
    if data.max_line_width < 1 or data.max_line_count < 1:
        raise UserError.expected(
            "--max_line_width and --max_line_count of at least 1",
            f"{data.max_line_width} and {data.max_line_count}",
            "Correct the flags",
        )
    if not all(paths):
        raise UserError.expected(
            "names of files and folders", "an empty name", "Correct the arguments"
        )


def chosen_utterances(
    data: DataOptions,
    limits: AudioLimits,
    normalize: Callable[[str], str] = normalize_transcript,
) -> tuple[list[Utterance], Skipped]:
    """Returns the utterances that the options name: files and folders, or a corpus.

    Args:
        data: options of the program.
        limits: lengths and rates that the model accepts.
        normalize: function that normalizes transcripts for the model's vocabulary.

    Returns:
        The utterances, and the skipped files with their reasons.

    Raises:
        UserError: a named file cannot be used, or there is no usable sound.
    """
    if data.paths:
        utterances, skipped = find_utterances(data.paths, limits, data.channels)
    else:
        manifest = read_corpus(data.data_dir, (), limits, normalize=normalize)
        utterances = manifest.utterances
        skipped = [(detail, why) for why, details in manifest.skipped.items() for detail in details]
    return share(utterances, data.data_ratio) if utterances else [], skipped


@contextlib.contextmanager
def with_standard_input(
    paths: Sequence[str],
) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
    """Copies standard input to a temporary file if one of the paths is `-`.

    Args:
        paths: files and folders of a program.

    Yields:
        The paths with that file in place of `-`, and a dictionary with its path as key and `-` as
        value.

    Raises:
        UserError: standard input is a terminal or closed, or `-` is given twice.
    """
    if STANDARD_INPUT not in paths:
        yield tuple(paths), {}
        return
    if sys.stdin is None:  # closed, as by <&-
        raise UserError.expected("a sound on standard input for -", "a closed one", "Open it")
    if paths.count(STANDARD_INPUT) > 1 or sys.stdin.isatty():
        received = "a terminal" if paths.count(STANDARD_INPUT) == 1 else "- several times"
        do = "Write a sound to the program: ffmpeg -i FILE -f wav - | python -m ... -"
        raise UserError.expected("one sound on standard input for -", received, do)
    with tempfile.TemporaryDirectory() as folder:
        place = os.path.join(folder, "standard input")
        with open(place, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        try:
            yield (
                tuple(place if path == STANDARD_INPUT else path for path in paths),
                {place: STANDARD_INPUT},
            )
        except AudioError as error:
            message = str(error).replace(place, "standard input")
            raise AudioError(message, path=STANDARD_INPUT, reason=error.reason) from error


def find_utterances(
    paths: Sequence[str], limits: AudioLimits, channels: str = MIX
) -> tuple[list[Utterance], Skipped]:
    """Returns the sounds in files and folders.

    In a folder and the folders below it, a file is a sound if its content or its suffix is that of
    a known kind. Links are followed. Hidden files and folders, and files with the transcripts of a
    corpus, are ignored.

    Args:
        paths: files and folders.
        limits: lengths and rates that the model accepts.
        channels: see `DataOptions`.

    Returns:
        The utterances, and `(path, reason)` for skipped files in folders. The reason is a key of
        `audio.REASONS`, `unreadable_folder`, or `NOT_SOUND`.

    Raises:
        AudioError: a file in `paths` cannot be used.
        UserError: a folder has no sound.
    """
    utterances: list[Utterance] = []
    skipped: Skipped = []
    for path in map(Path, paths):
        if not path.is_dir():
            utterances += _utterances(str(path), limits, channels)
            continue
        found, others = _sounds_below(path)
        if not found:
            what = f"none among {counted(len(others), 'file')}" if others else "none"
            raise UserError.expected(
                f"sound files ({', '.join(SUFFIXES[:5])} ...) in {path}",
                what,
                "Choose another folder",
            )
        skipped += others
        for file in found:
            try:
                utterances += _utterances(file, limits, channels)
            except AudioError as error:
                skipped.append((file, error.reason))
    return utterances, skipped


def _sounds_below(folder: Path) -> tuple[list[str], Skipped]:
    """Returns the sound files in a folder and below it, and other files without transcripts."""
    found, others = [], []

    def failed(error: OSError) -> None:
        others.append((str(error.filename), "unreadable_folder"))

    for parent, names in walk(folder, failed):
        for file in (os.path.join(parent, name) for name in names):
            if file.lower().endswith(SUFFIXES) or is_known(file):
                found.append(file)
            elif not is_transcript_file(file):
                others.append((file, NOT_SOUND))
    return sorted(found, key=lambda file: Path(file).parts), others


def _utterances(path: str, limits: AudioLimits, channels: str) -> list[Utterance]:
    """Returns the sound of a file, or one for each channel."""
    info = probe(path, limits, accept_damage=True)
    return [
        Utterance(
            utterance_id=Path(path).stem,
            path=path,
            num_samples=info.num_samples,
            duration_seconds=info.duration_seconds,
            transcript="",
            # Returns the same values as the graph decoder, which prints errors for a damaged FLAC.
            decoder="python",
            channel=number,
        )
        for number in chosen_channels(info, channels)
    ]
