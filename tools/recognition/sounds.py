"""Which sounds a program is to recognize: files and folders, or a corpus."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tools.errors import UserError
from tools.inference.options import DataOptions, check_seconds
from tools.inference.selection import share
from tools.speech.audio import AudioError, AudioLimits, probe
from tools.speech.corpus import SUFFIXES, Utterance, read_librispeech
from tools.speech.transcripts import normalize_transcript

Skipped = list[tuple[str, str]]  # of what is left out: a path and the reason


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


def find_utterances(
    paths: Sequence[str], limits: AudioLimits
) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """Lists the sounds behind files and folders.

    Returns:
        The utterances, and of folders the `(path, reason)` of what is skipped.

    Raises:
        AudioError: a file named on the command line cannot be used.
        UserError: a folder holds no sound.
    """
    utterances, skipped = [], []
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            files = (p for p in sorted(path.rglob("*")) if not p.name.startswith("."))
            found = [p for p in files if p.suffix.lower() in SUFFIXES and p.is_file()]
            if not found:
                raise UserError.expected(
                    f"sound files ({', '.join(sorted(SUFFIXES))}) in {path}",
                    "none",
                    "Choose another folder",
                )
        for file in found:
            try:
                info = probe(str(file), limits)
            except AudioError as error:
                if not path.is_dir():
                    raise
                skipped.append((str(file), error.reason))
                continue
            utterances.append(
                Utterance(
                    utterance_id=file.stem,
                    path=str(file),
                    num_samples=info.num_samples,
                    duration_seconds=info.duration_seconds,
                    transcript="",
                    # The same values as in the graph, where a damaged FLAC makes the decoder print.
                    decoder="python",
                )
            )
    return utterances, skipped
