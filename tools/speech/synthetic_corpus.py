"""Synthetic corpora: spoken digits, words or sentences in the layout of LibriSpeech.

The same arguments give the same files. Every utterance has its own random generator, seeded by
(seed, split, number), so a larger corpus starts with the utterances of a smaller one that has the
same number of speakers.
"""

import itertools
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tools.errors import UserError
from tools.files import is_made_of, new_folder, one_at_a_time, to_json
from tools.speech.containers import write_flac
from tools.speech.synthesis import MAX_PITCH, MIN_PITCH, synthesize
from tools.speech.transcripts import normalize_transcript

RATE_HZ = 16000
WORDS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
SPLITS = ("train-clean", "dev-clean")
CORPUS_FILE = "corpus.json"
RECIPE = 1  # increase with every change that alters the sound of a corpus

ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-us-nyc", "en-029")
VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4", "f5"),
    *("Alex", "Alicia", "Andy", "Annie", "Denis", "Gene", "Lee", "Michael", "belinda", "ed"),
    *("linda", "max", "michel", "paul", "quincy", "robert", "steph", "travis", "victor"),
)
MIN_SPEAKER_RATE, MAX_SPEAKER_RATE = 110, 200  # words per minute
MIN_SPEAKER_PITCH, MAX_SPEAKER_PITCH = 25, 75


@dataclass(frozen=True, slots=True)
class Arguments:
    """Everything that determines the content of a corpus; written to `corpus.json`.

    Attributes:
        train_utterances: number of utterances of the first split.
        dev_utterances: number of utterances of the second split.
        num_speakers: number of speakers, who are in both splits.
        max_words: largest number of entries of `words` in an utterance.
        seed: seed of all random choices.
        recipe: version of the synthesis.
        words: words or names that are drawn; empty for the digits.
        sentences: whole utterances that are drawn instead; empty for words.
    """

    train_utterances: int
    dev_utterances: int
    num_speakers: int
    max_words: int
    seed: int
    splits: tuple[str, ...] = SPLITS
    recipe: int = RECIPE
    words: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, object]:
        """Content of `corpus.json`; splits, words and sentences only if they are set."""
        defaults = {"splits": SPLITS, "words": (), "sentences": ()}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in defaults or value != defaults[name]
        }

    def validate(self) -> None:
        """Raises UserError if a value is out of range."""
        names = {name for name in self.splits if re.fullmatch(r"\w[\w.-]*", name)}
        if len(names) != len(SPLITS) or len(self.splits) != len(SPLITS):
            expected = "two names of folders as --splits, such as train,dev"
            raise UserError.expected(expected, ",".join(self.splits), "Change --splits")
        numbers = {x: y for x, y in asdict(self).items() if not isinstance(y, tuple)}
        for name, value in numbers.items():
            low = 1 if name in ("num_speakers", "max_words") else 0
            if value < low:
                raise UserError.expected(f"--{name} of at least {low}", value, f"Change --{name}")
        if self.train_utterances + self.dev_utterances == 0:
            raise UserError.expected("utterances to make", 0, "Raise --train_utterances")


@dataclass(frozen=True, slots=True)
class Speaker:
    """A synthetic speaker: an espeak-ng voice with its average pitch and rate."""

    speaker_id: int
    voice: str
    pitch: int
    rate_words_per_minute: int


def draw_speakers(num_speakers: int, seed: int) -> list[Speaker]:
    """Draws speakers. Voices repeat only if there are more speakers than voices.

    Args:
        num_speakers: number of speakers.
        seed: seed of the corpus.
    """
    rng = np.random.default_rng([seed, len(SPLITS)])
    voices = sorted({f"{a}+{v}" for a, v in itertools.product(ACCENTS, VARIANTS)})
    rng.shuffle(voices)
    return [
        Speaker(
            speaker_id=1001 + index,
            voice=voices[index % len(voices)],
            pitch=int(rng.integers(MIN_SPEAKER_PITCH, MAX_SPEAKER_PITCH + 1)),
            rate_words_per_minute=int(rng.integers(MIN_SPEAKER_RATE, MAX_SPEAKER_RATE + 1)),
        )
        for index in range(num_speakers)
    ]


def say(words: list[str], speaker: Speaker, rng: np.random.Generator) -> np.ndarray:
    """Synthesizes an utterance of a speaker with random variation.

    Rate, pitch and the pauses between words vary slightly. The peak level is between -16 and -1 dB
    of full scale, and white noise is added 35 to 60 dB below it. 50 to 400 ms without speech
    precede and follow the words.

    Args:
        words: words to say.
        speaker: voice, average pitch and rate.
        rng: random generator of the variation.

    Returns:
        `[S]` float32 at 16 kHz.
    """
    # espeak-ng speaks a comma as a short pause with a change of intonation.
    gaps = [", " if rng.random() < 0.3 else " " for _ in words[1:]]
    text = "".join(
        word.lower() + gap for word, gap in itertools.zip_longest(words, gaps, fillvalue="")
    )
    speech = synthesize(
        text,
        voice=speaker.voice,
        rate_words_per_minute=round(speaker.rate_words_per_minute * rng.uniform(0.9, 1.1)),
        pitch=int(np.clip(speaker.pitch + rng.integers(-5, 6), MIN_PITCH, MAX_PITCH)),
        target_rate_hz=RATE_HZ,
    )
    speech = np.pad(speech, rng.integers(RATE_HZ // 20, RATE_HZ * 2 // 5, size=2))
    level_db, noise_db = rng.uniform(-16, -1), -rng.uniform(35, 60)
    noise = rng.standard_normal(len(speech), np.float32) * 10 ** (noise_db / 20)
    peak = max(float(np.abs(speech).max()), 1e-3)
    waveform = (speech / peak + noise) * 10 ** (level_db / 20)
    return np.clip(waveform, -1.0, 1.0).astype(np.float32)


def draw_words(arguments: Arguments, rng: np.random.Generator) -> list[str]:
    """Draws a sentence, or words; an entry may have several words.

    Args:
        arguments: sentences, words, and the largest number of words.
        rng: random generator.
    """
    if arguments.sentences:
        return [arguments.sentences[rng.integers(len(arguments.sentences))]]
    known = arguments.words or WORDS
    return [str(word) for word in rng.choice(known, rng.integers(1, arguments.max_words + 1))]


def read_lines(path: str, name: str) -> tuple[str, ...]:
    """Reads the words or sentences of a file, one a line; empty lines are left out.

    Args:
        path: text file in UTF-8.
        name: name of the flag, for messages.

    Returns:
        The lines as normalized transcripts.

    Raises:
        UserError: the file cannot be read, has no lines, or a line has no letter or digit.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError.expected(f"a text file for --{name}", error, f"Correct --{name}") from error
    found = tuple(normalize_transcript(line) for line in lines if line.strip())
    bad = next((line for line in found if not any(map(str.isalnum, line))), None)
    if not found or bad is not None:
        received = "none" if bad is None else repr(bad)
        raise UserError.expected(
            f"lines with letters or digits in {path}", received, "Correct the file"
        )
    return found


def write_corpus(folder: Path, arguments: Arguments) -> float:
    """Writes a corpus into an existing empty folder; returns the length of the sound in seconds."""
    speakers = draw_speakers(arguments.num_speakers, arguments.seed)
    sizes = (arguments.train_utterances, arguments.dev_utterances)
    num_samples = 0
    bar = tqdm(total=sum(sizes), desc="synthesizing", unit="utterance", delay=1)
    with bar:
        for split_index, (split, size) in enumerate(zip(arguments.splits, sizes, strict=True)):
            transcripts: dict[Path, list[str]] = {}
            for index in range(size):
                rng = np.random.default_rng([arguments.seed, split_index, index])
                speaker = speakers[index % len(speakers)]
                # Each split has its own chapters, as in LibriSpeech.
                name = f"{speaker.speaker_id}-{100 * speaker.speaker_id + split_index}"
                chapter = folder / split / Path(*name.split("-"))
                chapter.mkdir(parents=True, exist_ok=True)
                lines = transcripts.setdefault(chapter / f"{name}.trans.txt", [])
                utterance_id = f"{name}-{len(lines):04d}"
                words = draw_words(arguments, rng)
                waveform = say(words, speaker, rng)
                write_flac(chapter / f"{utterance_id}.flac", waveform, RATE_HZ)
                lines.append(f"{utterance_id} {' '.join(words)}\n")
                num_samples += len(waveform)
                bar.update()
            for path, lines in transcripts.items():
                path.write_text("".join(lines), encoding="utf-8")
    (folder / CORPUS_FILE).write_text(to_json(arguments.record, indent=2) + "\n")
    return num_samples / RATE_HZ


def make_corpus(output_dir: Path, arguments: Arguments) -> float:
    """Synthesizes a corpus. The folder appears only after all files are written.

    Returns:
        The length of the sound in seconds.
    """
    with new_folder(output_dir) as folder:
        return write_corpus(folder, arguments)


def cached_corpus(cache: Path) -> Path:
    """Returns a small corpus in a cache, which the first call on a machine synthesizes.

    Args:
        cache: folder of the cache.

    Raises:
        UserError: the folder cannot be written, or has other content.
    """
    arguments = Arguments(24, 6, num_speakers=2, max_words=5, seed=0)
    folder = cache / f"digits-{RECIPE}"
    with one_at_a_time(folder):
        if not is_made_of(folder / CORPUS_FILE, arguments.record, "a corpus"):
            make_corpus(folder, arguments)
    return folder
