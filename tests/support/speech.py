"""Sounds, and corpora in the layout of LibriSpeech."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16000


def write_librispeech(
    split_dir: Path,
    utterances: Iterable[tuple[str, np.ndarray]],
    *,
    speaker: int | str = 7,
    chapter: int | str = 1,
    rate_hz: int = RATE_HZ,
) -> Path:
    """Writes a chapter of 16-bit FLAC files with its transcripts.

    Args:
        split_dir: folder of the split, such as `CORPUS/dev-clean`; made if needed.
        utterances: transcripts and their sounds, `[S]` in [-1, 1]; the files are called
            `SPEAKER-CHAPTER-0000.flac` and so on.
        speaker: name of the speaker's folder.
        chapter: name of the chapter's folder.
        rate_hz: rate of the sounds.

    Returns:
        The folder of the chapter.
    """
    folder = Path(split_dir) / str(speaker) / str(chapter)
    folder.mkdir(parents=True)
    lines = []
    for number, (transcript, sound) in enumerate(utterances):
        name = f"{speaker}-{chapter}-{number:04d}"
        soundfile.write(folder / f"{name}.flac", sound, rate_hz, subtype="PCM_16")
        lines.append(f"{name} {transcript}\n")
    (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines), encoding="utf-8")
    return folder


def wav_bytes(sound: np.ndarray, rate_hz: int = RATE_HZ, subtype: str = "PCM_16") -> bytes:
    """Encodes a sound of `[S]` or `[S, channels]` as a WAV file."""
    file = io.BytesIO()
    soundfile.write(file, sound, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()
