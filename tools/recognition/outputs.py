"""Prints recognized sounds and writes them to files, in all formats of the speech programs."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from tools.decoding.timestamps import Word
from tools.errors import UserError
from tools.files import check_writable, one_line, write_text
from tools.inference.options import DataOptions
from tools.recognition.decoders import Transcription
from tools.speech.corpus import Utterance
from tools.speech.subtitles import SUFFIXES, Lines, Speech, write

_MOST_SKIPPED = 5  # silences that are named
WITH_WORDS = tuple(kind for kind in SUFFIXES if kind != "text")  # formats that need word times


@dataclass(frozen=True, slots=True)
class Heard:
    """A recognized sound.

    Attributes:
        name: path of the sound as the user gave it.
        utterance: the sound.
        transcription: what was recognized.
        is_labelled: whether outputs name the channel.
    """

    name: str
    utterance: Utterance
    transcription: Transcription
    is_labelled: bool = False

    @property
    def text(self) -> str:
        """Text of the beam search if there is one, else of greedy search."""
        beam_text = self.transcription.beam_text
        return self.transcription.text if beam_text is None else beam_text

    @property
    def seconds(self) -> float:
        """Length of what was recognized."""
        found = self.transcription
        return self.utterance.duration_seconds if found.damage is None else found.duration_seconds

    @property
    def label(self) -> str:
        """Name of the sound in messages, with the channel if outputs name it."""
        channel = f" channel {self.utterance.channel}" if self.is_labelled else ""
        return one_line(self.name) + channel

    def columns(self, several: bool) -> str:
        """Returns the columns in front of each line: the path of several files, the channel."""
        path = f"{one_line(self.name)}\t" if several else ""
        return f"{path}{self.utterance.channel}\t" if self.is_labelled else path

    def remarks(self) -> Iterator[str]:
        """Yields lines about what was left out: a damaged end, and silences."""
        found, name = self.transcription, self.label
        if found.damage is not None:
            seconds = found.duration_seconds
            yield f"{name}: recognized up to {seconds:.2f} s; the rest is {found.damage}"
        if found.skipped:
            total = sum(end - start for start, end in found.skipped)
            places = [f"{start:.2f}-{end:.2f}" for start, end in found.skipped]
            named = ", ".join(places[:_MOST_SKIPPED]) + ", ..." * (len(places) > _MOST_SKIPPED)
            yield f"{name}: left out {total:.2f} s of silence: {named}"


def words_wanted(data: DataOptions) -> bool:
    """Returns whether the outputs need words with times."""
    return data.timestamps or data.format in WITH_WORDS


def check_outputs(data: DataOptions, names: Sequence[str]) -> None:
    """Checks before recognition that the formatted files can be written.

    Args:
        data: options of the program.
        names: path of each sound.

    Raises:
        UserError: several sounds without `output_dir`, two sounds for one file, or a file that
            cannot be written.
    """
    if data.format is None and data.output_dir is None:
        return
    if data.output_dir is None:
        if len(names) > 1:
            raise UserError.expected(
                f"--output_dir with --format {data.format} for several sounds",
                f"{len(names)} sounds",
                "Name a folder with --output_dir",
            )
        return
    places: dict[Path, str] = {}
    for name in names:
        place = _place(data, name)
        if place in places:
            raise UserError.expected(
                "sounds of different names with --output_dir",
                f"{one_line(places[place])} and {one_line(name)}, both for {place.name}",
                "Rename one of them, or run them with different folders",
            )
        places[place] = name
    for place in places:
        check_writable(place)


def show_texts(data: DataOptions, heard: Sequence[Heard], several: bool) -> None:
    """Prints what was recognized, or writes a file for each sound.

    Args:
        data: options of the program.
        heard: recognized sounds; the channels of a sound follow each other.
        several: whether each line begins with the path of its sound.
    """
    if data.format is not None or data.output_dir is not None:
        for name, group in groupby(heard, lambda one: one.name):
            content = _formatted(data, name, list(group))
            if data.output_dir is None:
                sys.stdout.write(content)
            else:
                write_text(_place(data, name), content)
        return
    for one in heard:
        columns = one.columns(several)
        if data.timestamps:
            print("".join(word_line(word, columns) for word in one.transcription.words), end="")
        elif one.transcription.n_best:
            print(n_best_lines(one.transcription, columns), end="")
        else:
            print(f"{columns}{one_line(one.text)}")


def n_best_lines(found: Transcription, columns: str = "") -> str:
    """Returns a line with score and text for each text of a beam search."""
    return "".join(f"{columns}{one.score:.3f}\t{one_line(one.text)}\n" for one in found.n_best)


def word_line(word: Word, columns: str = "") -> str:
    """Returns a line with start, end and text of a word."""
    times = f"{word.start_seconds:.2f}\t{word.end_seconds:.2f}"
    return f"{columns}{times}\t{one_line(word.text)}\n"


def _formatted(data: DataOptions, name: str, heard: Sequence[Heard]) -> str:
    speeches = [
        Speech(
            one.text,
            one.transcription.words,
            one.transcription.log_probability,
            one.utterance.channel if one.is_labelled or data.format == "ctm" else None,
        )
        for one in heard
    ]
    lines = Lines(data.max_line_width, data.max_line_count)
    return write(data.format or "text", speeches, _stem(name), lines)


def _stem(name: str) -> str:
    return "stdin" if name == "-" else Path(name).stem


def _place(data: DataOptions, name: str) -> Path:
    return Path(data.output_dir) / f"{_stem(name)}{SUFFIXES[data.format or 'text']}"
