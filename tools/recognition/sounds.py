"""Which sounds a program is to recognize: files and folders, or a corpus."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.errors import UserError
from tools.inference.options import DataOptions, check_seconds
from tools.inference.selection import share
from tools.speech.audio import AudioError, AudioLimits, is_known, probe
from tools.speech.corpus import SUFFIXES, Utterance, read_librispeech, walk
from tools.speech.transcripts import normalize_transcript

Skipped = list[tuple[str, str]]  # of what is left out: a path and the reason
NOT_SOUND = "not_sound"  # the reason of other files in a folder


def check_options(data: DataOptions, max_seconds: float | None) -> None:
    """Refuses options before anything is loaded."""
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
            "Correct the flag",
        )
    check_seconds(max_seconds)
    if not all(paths):
        raise UserError.expected("names of files and folders", "an empty one", "Correct it")


def chosen_utterances(
    data: DataOptions,
    limits: AudioLimits,
    normalize: Callable[[str], str] = normalize_transcript,
) -> tuple[list[Utterance], Skipped]:
    """Lists what is asked for: files and folders, or a data set.

    Args:
        data: what is asked for.
        limits: what the model takes.
        normalize: makes the transcripts what the model can write.
    """
    if data.paths:
        utterances, skipped = find_utterances(data.paths, limits)
    else:
        manifest = read_librispeech(data.data_dir, (), limits, normalize=normalize)
        utterances = manifest.utterances
        skipped = [(detail, why) for why, details in manifest.skipped.items() for detail in details]
    return share(utterances, data.data_ratio) if utterances else [], skipped


def find_utterances(paths: Sequence[str], limits: AudioLimits) -> tuple[list[Utterance], Skipped]:
    """Lists the sounds behind files and folders.

    In a folder these are the files of any kind that is read, by their content, and what is named
    like one; folders below and links are followed, hidden things are not looked at.

    Returns:
        The utterances, and of folders the `(path, reason)` of what is skipped: a key of
        `audio.REASONS`, `unreadable_folder`, or `NOT_SOUND`.

    Raises:
        AudioError: a file named on the command line cannot be used.
        UserError: a folder holds no sound.
    """
    utterances: list[Utterance] = []
    skipped: Skipped = []
    for path in map(Path, paths):
        if not path.is_dir():
            utterances.append(_utterance(str(path), limits))
            continue
        found, others = _sounds_below(path)
        if not found:
            what = f"none among {len(others)} files" if others else "none"
            raise UserError.expected(
                f"sound files ({', '.join(SUFFIXES[:5])} ...) in {path}", what, "Choose another"
            )
        skipped += others
        for file in found:
            try:
                utterances.append(_utterance(file, limits))
            except AudioError as error:
                skipped.append((file, error.reason))
    return utterances, skipped


def _sounds_below(folder: Path) -> tuple[list[str], Skipped]:
    """Lists the sounds in a folder and below, and what is none."""
    found, others = [], []

    def failed(error: OSError) -> None:
        others.append((str(error.filename), "unreadable_folder"))

    for parent, names in walk(folder, failed):
        for file in (os.path.join(parent, name) for name in names):
            if file.lower().endswith(SUFFIXES) or is_known(file):
                found.append(file)
            else:
                others.append((file, NOT_SOUND))
    return sorted(found, key=lambda file: Path(file).parts), others


def _utterance(path: str, limits: AudioLimits) -> Utterance:
    info = probe(path, limits)
    return Utterance(
        utterance_id=Path(path).stem,
        path=path,
        num_samples=info.num_samples,
        duration_seconds=info.duration_seconds,
        transcript="",
        # The same values as in the graph, where a damaged FLAC makes the decoder print.
        decoder="python",
    )
