"""Joins random utterances of a corpus into longer ones and writes them as a new training split.

In a small corpus of short utterances, few pairs of words follow each other. Joined utterances add
word sequences, repetitions and lengths that no recording has. Only utterances of the same speaker
are joined.
"""

import math
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import new_folder
from tools.speech.audio import AudioLimits, read
from tools.speech.containers import write_flac
from tools.speech.corpus import Utterance, read_corpus, speaker_of
from tools.speech.part_times import Part, speech_range, times_lines, write_times

RATE_HZ = 16000


@dataclass(frozen=True, slots=True)
class Joining:
    """How utterances are joined.

    Attributes:
        max_parts: largest number of parts; the number is drawn uniformly from 2 to this.
        max_seconds: largest length of all parts and the gaps between them.
        repeat_share: probability that all parts have the same transcript.
        max_gap_seconds: longest silence (zeros) between two parts; drawn uniformly from 0 to this.
        writes_times: whether each part is trimmed to its first frame above -40 dB of its loudest
            one, and the times of the parts are written to `times.tsv`.
    """

    max_parts: int = 3
    max_seconds: float = 10.0
    repeat_share: float = 0.0
    max_gap_seconds: float = 0.0
    writes_times: bool = False


def draw(
    utterances: list[Utterance], joining: Joining, rng: np.random.Generator
) -> tuple[list[Utterance], list[float]]:
    """Draws utterances of one speaker with a total length of at most `joining.max_seconds`.

    Args:
        utterances: all utterances of the speaker.
        joining: how utterances are joined.
        rng: random generator.

    Returns:
        The utterances, and the silence before each of them in seconds (0 before the first). If the
        next utterance would be too long, it and the rest are left out; at least one is returned.
    """
    indices = rng.integers(len(utterances), size=rng.integers(2, joining.max_parts + 1))
    if joining.repeat_share and rng.uniform() < joining.repeat_share:
        first = utterances[indices[0]]
        same = [n for n, x in enumerate(utterances) if x.transcript == first.transcript]
        indices = [same[index % len(same)] for index in indices]
    parts, gaps, seconds = [], [], 0.0
    for index in indices:
        gap = rng.uniform(0, joining.max_gap_seconds) if joining.max_gap_seconds and parts else 0.0
        seconds += gap + utterances[index].duration_seconds
        if parts and seconds > joining.max_seconds:
            break
        parts.append(utterances[index])
        gaps.append(gap)
    return parts, gaps


def write_split(
    folder: Path,
    by_speaker: dict[str, list[Utterance]],
    num_utterances: int,
    joining: Joining,
    *,
    seed: int,
) -> float:
    """Writes a split into an existing empty folder.

    Args:
        folder: where to write.
        by_speaker: utterances by speaker.
        num_utterances: number of joined utterances to write.
        joining: how utterances are joined.
        seed: seed of all random choices.

    Returns:
        The length of the split in seconds.
    """
    speakers = sorted(by_speaker)
    shares = np.array([len(by_speaker[speaker]) for speaker in speakers], float)
    limits = AudioLimits(RATE_HZ, max_seconds=joining.max_seconds)
    lines: dict[str, list[str]] = defaultdict(list)
    num_samples, times = 0, ""
    for index in tqdm(range(num_utterances), desc="joining", unit="utterance", delay=1):
        rng = np.random.default_rng([seed, index])
        speaker = speakers[rng.choice(len(speakers), p=shares / shares.sum())]
        parts, gaps = draw(by_speaker[speaker], joining, rng)
        sounds = [read(part.path, limits) for part in parts]
        ranges = [(0, len(sound)) for sound in sounds]
        if joining.writes_times:
            ranges = [speech_range(sound, RATE_HZ) for sound in sounds]
        pieces = [
            np.pad(sound[start:], (round(gap * RATE_HZ), 0))
            for sound, gap, (start, _) in zip(sounds, gaps, ranges, strict=True)
        ]
        waveform = np.concatenate(pieces)
        chapter = folder / speaker / "0"
        chapter.mkdir(parents=True, exist_ok=True)
        utterance_id = f"{speaker}-0-{len(lines[speaker]):05d}"
        write_flac(chapter / f"{utterance_id}.flac", waveform, RATE_HZ)
        if joining.writes_times:
            times += times_lines(utterance_id, _timed(parts, pieces, sounds, ranges=ranges))
        words = " ".join(part.transcript for part in parts)
        lines[speaker].append(f"{utterance_id} {words}\n")
        num_samples += len(waveform)
    for speaker, transcripts in lines.items():
        path = folder / speaker / "0" / f"{speaker}-0.trans.txt"
        path.write_text("".join(transcripts), encoding="utf-8")
    if joining.writes_times:
        write_times(folder, times)
    return num_samples / RATE_HZ


def _timed(
    parts: Sequence[Utterance],
    pieces: Sequence[np.ndarray],
    sounds: Sequence[np.ndarray],
    *,
    ranges: Sequence[tuple[int, int]],
) -> list[Part]:
    """Returns the times of parts that follow each other.

    Args:
        parts: the utterances.
        pieces: what is written of each: the gap before it and its trimmed samples.
        sounds: its samples before trimming.
        ranges: its first and last speech, in samples of `sounds`.
    """
    timed, place = [], 0
    for part, piece, sound, (start, end) in zip(parts, pieces, sounds, ranges, strict=True):
        place += len(piece)  # the end of the part, and of its sound
        seconds = [(place - len(sound) + edge) / RATE_HZ for edge in (start, end)]
        timed.append(Part(*seconds, part.transcript))
    return timed


def main(argv: list[str]) -> int:
    """Runs the program."""
    command_line = CommandLine(
        "tools.cli.join_corpus",
        "Joins utterances of the same speaker at random into a new split.",
        "--split_dir=DIR --output_dir=DIR [FLAGS]",
        example="--split_dir=DIGITS/train-clean --output_dir=JOINED/train-joined",
    )
    command_line.group("Input")
    about = "Split of a corpus whose utterances are joined."
    command_line.string("split_dir", None, about, default_text=REQUIRED)
    about = "Most words of a part; longer utterances are not used."
    command_line.integer("max_words", None, about, default_text="no limit")
    command_line.group("Output")
    command_line.string("output_dir", None, "New split to write.", default_text=REQUIRED)
    command_line.integer("num_utterances", 1000, "Utterances to make.")
    command_line.integer("max_parts", 3, "Most parts of a new utterance.")
    command_line.number("max_seconds", 10.0, "Longest new utterance in seconds.")
    about = "Share of the new utterances whose parts all have the same words."
    command_line.number("repeat_share", 0.0, about)
    about = "Longest silence between two parts in seconds; drawn uniformly."
    command_line.number("max_gap_seconds", 0.0, about)
    about = "Trims each part to its first speech, and writes the times of the parts to times.tsv."
    command_line.boolean("times", False, about)
    command_line.integer("seed", 0, "Seed of all random choices.")
    flags, rest = command_line.parse(argv)
    if rest or not flags.split_dir or not flags.output_dir:
        raise UserError.expected(
            "--split_dir DIR --output_dir DIR", " ".join(argv) or "nothing", "See --help"
        )
    in_range = flags.num_utterances >= 1 and flags.max_parts >= 2 and flags.seed >= 0
    if not (in_range and 0 < flags.max_seconds < math.inf):
        raise UserError.expected(
            "--num_utterances >= 1, --max_parts >= 2, --seed >= 0 and --max_seconds > 0",
            f"{flags.num_utterances}, {flags.max_parts}, {flags.seed} and {flags.max_seconds}",
            "Correct the flags",
        )
    if not (0 <= flags.repeat_share <= 1 and 0 <= flags.max_gap_seconds <= flags.max_seconds):
        raise UserError.expected(
            "--repeat_share from 0 to 1, and --max_gap_seconds from 0 to --max_seconds",
            f"{flags.repeat_share} and {flags.max_gap_seconds}",
            "Correct the flags",
        )
    if flags.max_words is not None and flags.max_words < 1:
        raise UserError.expected("--max_words >= 1", flags.max_words, "Correct the flag")
    joining = Joining(
        flags.max_parts,
        flags.max_seconds,
        flags.repeat_share,
        max_gap_seconds=flags.max_gap_seconds,
        writes_times=flags.times,
    )
    output_dir = Path(flags.output_dir).absolute()
    if output_dir.exists():
        raise UserError.expected(
            "a new --output_dir", f"{output_dir}, which exists", "Name another or remove it"
        )
    limits = AudioLimits(RATE_HZ, max_seconds=flags.max_seconds)
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in read_corpus(flags.split_dir, (), limits).utterances:
        if flags.max_words is None or len(utterance.transcript.split()) <= flags.max_words:
            by_speaker[speaker_of(utterance)].append(utterance)
    if not by_speaker:
        raise UserError.expected(
            f"utterances of at most {counted(flags.max_words, 'word')}", "none", "Raise --max_words"
        )
    with new_folder(output_dir) as folder:
        seconds = write_split(folder, by_speaker, flags.num_utterances, joining, seed=flags.seed)
    print(
        f"{flags.output_dir}: {counted(flags.num_utterances, 'utterance')}, "
        f"{seconds / 60:.1f} minutes.",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run(main)
