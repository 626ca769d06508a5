"""Reading of speech corpora: folders in the layout of LibriSpeech, and tables.

    SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER.trans.txt    lines "SPEAKER-CHAPTER-NUMBER THE WORDS"
    SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac  or another suffix of `SUFFIXES`

See `tables` for tables. A folder without `*.trans.txt` may contain a table `transcripts.tsv`. A
config of TensorFlowASR names such tables; a split whose table is missing is read from its
`*.trans.txt`.

Utterances that cannot be used are skipped, and listed with file and line under a key of
`SKIP_REASONS`.
"""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from tools.amounts import counted
from tools.errors import UserError
from tools.files import expand_home, folders_above, one_line
from tools.speech import audio
from tools.speech.tables import TABLE_NAME, TABLE_SUFFIXES, table_rows
from tools.speech.transcript_files import (
    MAX_LINE_CHARACTERS,
    MAX_TABLE_BYTES,
    MAX_TRANSCRIPT_BYTES,
    Line,
    text_lines,
)
from tools.speech.transcripts import normalize_transcript

# Suffixes of sound files, in any case. If an id has several files, the first suffix is used.
SUFFIXES = (
    *".flac .wav .ogg .opus .mp3 .aif .aiff .aifc .oga .mp2 .wave .sph .nist".split(),
    *".m4a .mp4 .aac .webm .mka .mkv .mov .3gp .amr .wma .rf64 .w64 .caf .au .spx .wv .ape".split(),
)
TRANSCRIPT_SUFFIX = ".trans.txt"
MAX_CHARACTERS_PER_SECOND = 50.0  # the fastest speakers of LibriSpeech reach about 20

_log = logging.getLogger(__name__)

SKIP_REASONS = {
    "unreadable_folder": "a folder that cannot be listed",
    "unreadable_transcript": "a transcript file that cannot be read, or has more than "
    f"{MAX_TRANSCRIPT_BYTES >> 20} MiB (a table: {MAX_TABLE_BYTES >> 30} GiB)",
    "not_text": "a line that is not UTF-8 or has control characters",
    "long_line": f"a line of more than {MAX_LINE_CHARACTERS} characters",
    "bad_id": "an id that does not start with the name of its transcript file, or contains a path",
    "bad_row": "a row of a table without the three columns PATH, DURATION and TRANSCRIPT",
    "bad_duration": "a row of a table whose duration is not a number of seconds above 0",
    "duplicate_id": "an id or sound that occurs in several lines; none of them is used",
    "empty_transcript": "an id without words",
    "long_transcript": f"more than {MAX_CHARACTERS_PER_SECOND:g} characters per second of sound",
    "missing_audio": "a transcript without a sound file beside it",
    "untranscribed_audio": "a sound file without a transcript",
} | audio.REASONS

_NUM_THREADS = 16  # more than cores, as reading headers mostly waits for the disk or network
_CHUNK = 32


@dataclass(frozen=True, slots=True)
class Utterance:
    """A sound file and its transcript.

    Attributes:
        utterance_id: id in the transcript file.
        path: path of the sound file.
        num_samples: length in samples at the model's rate.
        duration_seconds: length in seconds.
        transcript: normalized words.
        decoder: decoder that `audio.probe` has selected.
        channel: number of the channel from 1; None mixes the channels.
    """

    utterance_id: str
    path: str
    num_samples: int
    duration_seconds: float
    transcript: str
    decoder: audio.Decoder
    channel: int | None = None


def counts_of(skipped: Mapping[str, Sequence[str]]) -> str:
    """Returns counts as text: "; skipped 3: missing_audio 2, too_long 1", or an empty text."""
    counts = ", ".join(f"{reason} {len(details)}" for reason, details in sorted(skipped.items()))
    return f"; skipped {sum(map(len, skipped.values()))}: {counts}" if counts else ""


@dataclass
class Manifest:
    """The utterances of a corpus.

    Attributes:
        utterances: utterances that can be used, in the order of their paths.
        skipped: details of what was skipped, by key of `SKIP_REASONS`.
    """

    utterances: list[Utterance] = field(default_factory=list)
    skipped: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def num_skipped(self) -> int:
        """Number of skipped items for all reasons together."""
        return sum(map(len, self.skipped.values()))

    def summary(self) -> str:
        """Returns "900 utterances (39.0 min); skipped 3: missing_audio 2, too_long 1"."""
        seconds = sum(utterance.duration_seconds for utterance in self.utterances)
        length = f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
        line = f"{counted(len(self.utterances), 'utterance')} ({length})"
        return line + counts_of(self.skipped)


def read_corpus(
    root: str | os.PathLike[str],
    splits: Sequence[str] = (),
    limits: audio.AudioLimits = audio.DEFAULT_LIMITS,
    *,
    progress: bool = True,
    normalize: Callable[[str], str] = normalize_transcript,
) -> Manifest:
    """Reads the transcripts of a corpus and the headers of its sound files.

    Args:
        root: folder of the splits; without `splits`, a table, or a folder with transcripts.
        splits: folders and tables in `root`, read in this order; empty to read `root` itself.
        limits: accepted lengths and rates, and the model's rate.
        progress: whether to show a progress bar on stderr if reading takes over two seconds.
        normalize: function applied to every transcript.

    Raises:
        UserError: a split is missing or has no transcripts, or no utterance can be used.
    """
    manifest = Manifest()
    pairs = []
    for place in _split_places(Path(root), splits):
        found = _transcribed_sounds(place, manifest.skipped, normalize)
        if found is None:
            received = f"no utterances found in {place}"
            do = f"Name a table, or a folder with *{TRANSCRIPT_SUFFIX} files below"
            raise UserError.expected("a corpus laid out like LibriSpeech, or a table", received, do)
        pairs += found
    chunks = [pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK)]
    with (
        ThreadPoolExecutor(_NUM_THREADS) as pool,
        tqdm(total=len(pairs), desc="headers", unit="file", delay=2, disable=not progress) as bar,
    ):
        for outcomes in pool.map(lambda chunk: [_judged(*pair, limits) for pair in chunk], chunks):
            bar.update(len(outcomes))
            for outcome in outcomes:
                if isinstance(outcome, Utterance):
                    manifest.utterances.append(outcome)
                else:
                    manifest.skipped[outcome[0]].append(outcome[1])
    if not manifest.utterances:
        details = next(iter(manifest.skipped.values()))
        received = f"no usable utterances in {root}, {manifest.summary()} (first: {details[0]})"
        raise UserError.expected("usable utterances", received, "Repair the corpus")
    return manifest


def is_transcript_file(path: str) -> bool:
    """Returns whether a file has the name of the transcripts of a corpus."""
    name = os.path.basename(path)
    return name.endswith(TRANSCRIPT_SUFFIX) or name == TABLE_NAME


def has_transcripts(place: Path) -> bool:
    """Returns whether a path is a table, or a folder with a table or transcript files.

    The table is directly in the folder; the transcript files are in any folder below it.
    """
    is_table = _is_table(place) or _is_table(place / TABLE_NAME)
    return is_table or _has_transcript_files(place)


def _has_transcript_files(folder: Path) -> bool:
    """Returns whether a transcript file is in any folder below one; follows links."""
    files = (names for _, names in walk(folder, lambda error: None))
    return any(name.endswith(TRANSCRIPT_SUFFIX) for names in files for name in names)


def speaker_of(utterance: Utterance) -> str:
    """Returns the speaker of an utterance, from the folders of its sound file.

    Raises:
        UserError: the sound file is not in SPEAKER/CHAPTER, or the id does not start with
            "SPEAKER-CHAPTER-".
    """
    speaker, chapter = ["", "", *os.path.abspath(utterance.path).split(os.sep)][-3:-1]
    if not (speaker and utterance.utterance_id.startswith(f"{speaker}-{chapter}-")):
        raise UserError.expected(
            "a split laid out like LibriSpeech, with sounds SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER",
            f"{one_line(utterance.path)} (utterance {utterance.utterance_id})",
            "Name such a split; a table has no speakers",
        )
    return speaker


def _split_places(root: Path, splits: Sequence[str]) -> list[Path]:
    """Returns the folders and tables of the splits."""
    if not root.is_dir() and (splits or not _is_table(root)):
        raise UserError.expected(
            "the folder of a corpus", f"{root}, which is no folder", "Check the path"
        )
    places = [_present(root, expand_home(split)) for split in dict.fromkeys(splits)] or [root]
    for place in places:
        if not place.is_dir() and not _is_table(place):
            present = sorted(root.iterdir())
            # The texts beside the splits of LibriSpeech are no tables.
            others = [path for path in present if path.is_dir() or path.suffix.lower() != ".txt"]
            names = [path.name for path in others if path.is_dir() or _is_table(path)]
            names = names or [path.name for path in present if _is_table(path)]
            received = f"no such folder or table, but {', '.join(names) or 'none at all'}"
            do = (
                "Name a split that exists; a training reads its splits from "
                "--set data.train_splits=NAME and --set data.eval_splits=NAME"
            )
            raise UserError.expected(f"the split {place}", received, do)
    return places


def _present(root: Path, name: str) -> Path:
    """Returns the path of a split: of a table SPLIT/transcripts.tsv that is missing, that of SPLIT.

    The missing table of `root` itself does not stand for all of its splits.
    """
    place, split = root / name, (root / name).parent
    if place.name != TABLE_NAME or place.exists() or not split.is_dir() or split.samefile(root):
        return place
    if not _has_transcript_files(split):
        return place
    _log.info("no table %s: reading the *%s files of the folder", place, TRANSCRIPT_SUFFIX)
    return split


def _is_table(path: Path) -> bool:
    return path.name.lower().endswith(TABLE_SUFFIXES) and path.is_file()


def _transcribed_sounds(
    place: Path, skipped: defaultdict[str, list[str]], normalize: Callable[[str], str]
) -> list[tuple[Line, str]] | None:
    """Pairs the transcripts of a split with sound files; returns None without transcripts."""
    if not place.is_dir():
        return table_rows(str(place), skipped, normalize)
    left_out: defaultdict[str, list[str]] = defaultdict(list)
    found, table = _transcribed_files(place, left_out, normalize), place / TABLE_NAME
    if found is None and _is_table(table):
        return table_rows(str(table), skipped, normalize)
    for reason, details in left_out.items():
        skipped[reason] += details
    return found


def _transcribed_files(
    folder: Path, skipped: defaultdict[str, list[str]], normalize: Callable[[str], str]
) -> list[tuple[Line, str]] | None:
    """Pairs the transcripts below a folder with sound files; returns None without transcripts."""
    pairs, has_lines = [], False
    for parent, names in walk(folder, listed(skipped)):
        sounds = {}
        for suffix in reversed(SUFFIXES):
            sounds |= {
                name[: -len(suffix)]: name for name in names if name.lower().endswith(suffix)
            }
        num_skipped = sum(map(len, skipped.values()))
        lines = [
            line
            for name in names
            if name.endswith(TRANSCRIPT_SUFFIX)
            for line in _lines(os.path.join(parent, name), skipped, normalize)
        ]
        has_lines |= bool(lines) or sum(map(len, skipped.values())) > num_skipped
        num_lines = Counter(line.utterance_id for line in lines)
        for line in lines:
            if num_lines[line.utterance_id] > 1:
                skipped["duplicate_id"].append(f"{line.place}: {line.utterance_id}")
            elif not line.transcript:
                skipped["empty_transcript"].append(f"{line.place}: {line.utterance_id}")
            elif line.utterance_id not in sounds:
                skipped["missing_audio"].append(f"{line.place}: {line.utterance_id}")
            else:
                pairs.append((line, os.path.join(parent, sounds[line.utterance_id])))
        lonely = [
            os.path.join(parent, sounds[stem]) for stem in sorted(sounds) if not num_lines[stem]
        ]
        if lonely:
            skipped["untranscribed_audio"] += lonely
    return pairs if has_lines else None


def walk(
    folder: str | os.PathLike[str], failed: Callable[[OSError], None]
) -> Iterator[tuple[str, list[str]]]:
    """Walks over a folder and the folders below it, sorted, each of them once.

    Follows links, except those to a folder above. Skips hidden files and folders.

    Args:
        folder: where to start.
        failed: called with the error of each folder that cannot be listed.

    Yields:
        The path of a folder, and the names of the files in it.
    """
    seen, above = set(), folders_above(folder)
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=failed):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen or os.path.realpath(parent) in above:
            folders.clear()  # already visited, or a link to a folder above
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield parent, sorted(name for name in names if not name.startswith("."))


def listed(skipped: defaultdict[str, list[str]]) -> Callable[[OSError], None]:
    """Returns a function for the argument `failed` of `walk` that adds the error to `skipped`."""

    def failed(error: OSError) -> None:
        skipped["unreadable_folder"].append(f"{error.filename}: {error.strerror}")

    return failed


def _lines(
    path: str, skipped: defaultdict[str, list[str]], normalize: Callable[[str], str]
) -> Iterator[Line]:
    """Yields the valid lines of a transcript file; adds the others to `skipped`."""
    prefix = os.path.basename(path).removesuffix(TRANSCRIPT_SUFFIX) + "-"
    for place, text in text_lines(path, skipped, MAX_TRANSCRIPT_BYTES):
        utterance_id, *words = text.split(maxsplit=1) or [""]
        if not utterance_id:
            continue  # a blank line
        if not utterance_id.startswith(prefix) or re.search(r"[/\\]", utterance_id):
            skipped["bad_id"].append(f"{place}: {utterance_id!r}")
        else:
            yield Line(place, utterance_id, normalize(words[0] if words else ""))


def _judged(line: Line, path: str, limits: audio.AudioLimits) -> Utterance | tuple[str, str]:
    """Returns the utterance of a line and its sound file, or reason and detail if it is skipped."""
    try:
        info = audio.probe(path, limits)
    except audio.AudioError as error:
        return error.reason, str(error)
    if len(line.transcript) > MAX_CHARACTERS_PER_SECOND * info.duration_seconds:
        amount = f"{len(line.transcript)} characters in {info.duration_seconds:.2f} s"
        return "long_transcript", f"{line.place}: {amount}"
    return Utterance(
        line.utterance_id,
        path,
        info.num_samples,
        info.duration_seconds,
        line.transcript,
        info.decoder,
    )
