"""Formats of recognized words: plain text, JSON, subtitles (SRT, WebVTT), TSV and CTM.

JSON, SRT, WebVTT, TSV and text have the keys and the number formats of whisper.

Source: openai-whisper 20250625, `whisper/utils.py`; SCTK, `doc/infmts.htm` for CTM.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tools.files import one_line, to_json


class TimedWord(Protocol):
    """A word with its time in seconds and its confidence; see `tools.decoding.timestamps.Word`."""

    text: str
    start_seconds: float
    end_seconds: float
    confidence: float
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Lines:
    """How words are put into subtitles.

    Attributes:
        max_width: largest number of characters in a line; only a longer word makes a longer line.
        max_count: largest number of lines.
        max_pause_seconds: a longer pause between two words begins a new subtitle.
    """

    max_width: int = 42
    max_count: int = 2
    max_pause_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Speech:
    """Recognized words of one channel of a sound.

    Attributes:
        text: recognized text.
        words: its words in the order of time.
        log_probability: log-probability of the text, in nats.
        channel: number of the channel from 1; None if the channels were mixed.
    """

    text: str
    words: Sequence[TimedWord]
    log_probability: float | None = None
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """Words that are shown at the same time.

    Attributes:
        lines: words of each line.
        speech: the speech that the words belong to.
    """

    lines: tuple[tuple[TimedWord, ...], ...]
    speech: Speech

    @property
    def words(self) -> list[TimedWord]:
        """All words."""
        return [word for line in self.lines for word in line]

    @property
    def start_seconds(self) -> float:
        """Start of the first word."""
        return self.lines[0][0].start_seconds

    @property
    def end_seconds(self) -> float:
        """End of the last word."""
        return self.lines[-1][-1].end_seconds

    def text(self, separator: str = " ") -> str:
        """Returns the text, with a separator between lines and the channel, if any, in front."""
        text = separator.join(" ".join(word.text for word in line) for line in self.lines)
        channel = self.speech.channel
        return text if channel is None else f"{channel}: {text}"


def segments_of(speech: Speech, lines: Lines) -> list[Segment]:
    """Divides words into segments at pauses, and where the lines are full.

    Args:
        speech: recognized words.
        lines: limits of the lines.
    """
    found: list[list[list[TimedWord]]] = []
    end, width = 0.0, 0
    for word in speech.words:
        width += 1 + len(word.text)
        is_pause = word.start_seconds - end > lines.max_pause_seconds
        if not found or is_pause:
            found.append([[word]])
            width = len(word.text)
        elif width > lines.max_width:
            if len(found[-1]) < lines.max_count:
                found[-1].append([word])
            else:
                found.append([[word]])
            width = len(word.text)
        else:
            found[-1][-1].append(word)
        end = word.end_seconds
    return [Segment(tuple(map(tuple, one)), speech) for one in found]


def write(kind: str, speeches: Sequence[Speech], name: str, lines: Lines) -> str:
    """Returns the content of a file with recognized words.

    Args:
        kind: a key of `SUFFIXES`.
        speeches: the words, for each channel.
        name: name of the sound without folder and suffix.
        lines: limits of the lines of subtitles.
    """
    segments = [segment for speech in speeches for segment in segments_of(speech, lines)]
    segments.sort(key=lambda segment: segment.start_seconds)
    return _WRITERS[kind](segments, speeches, name)


def _text(segments: Sequence[Segment], speeches: Sequence[Speech], name: str) -> str:
    return "".join(
        f"{one_line(x.text)}\n" if x.channel is None else f"{x.channel}: {one_line(x.text)}\n"
        for x in speeches
    )


def _json(segments: Sequence[Segment], speeches: Sequence[Speech], name: str) -> str:
    found = [_json_segment(number, segment) for number, segment in enumerate(segments)]
    text = "".join(segment["text"] for segment in found)
    return to_json({"text": text, "segments": found, "language": None}) + "\n"


def _json_segment(number: int, segment: Segment) -> dict:
    """Returns a segment with whisper's keys.

    A word begins with a space. Greedy search has no temperature, and a segment always has speech.
    """
    speech, words = segment.speech, segment.words
    text = "".join(f" {word.text}" for word in words)
    num_tokens = sum(len(word.tokens) for word in speech.words)
    average = None
    if speech.log_probability is not None:
        average = speech.log_probability / (num_tokens + 1)
    encoded = text.encode()
    found = {
        "id": number,
        "seek": round(100 * segment.start_seconds),
        "start": round(segment.start_seconds, 2),
        "end": round(segment.end_seconds, 2),
        "text": text,
        "tokens": [token for word in words for token in word.tokens],
        "temperature": 0.0,
        "avg_logprob": average,
        "compression_ratio": len(encoded) / len(zlib.compress(encoded)),
        "no_speech_prob": 0.0,
        "words": [
            {
                "word": f" {word.text}",
                "start": round(word.start_seconds, 2),
                "end": round(word.end_seconds, 2),
                "probability": round(word.confidence, 4),
            }
            for word in words
        ],
    }
    return found if speech.channel is None else {**found, "channel": speech.channel}


def _srt(segments: Sequence[Segment], speeches: Sequence[Speech], name: str) -> str:
    return "".join(
        f"{number}\n{_times(segment, ',', hours=True)}\n{_shown(segment)}\n\n"
        for number, segment in enumerate(segments, 1)
    )


def _vtt(segments: Sequence[Segment], speeches: Sequence[Speech], name: str) -> str:
    entries = (
        f"{_times(segment, '.', hours=False)}\n{_escaped(_shown(segment))}\n\n"
        for segment in segments
    )
    return "WEBVTT\n\n" + "".join(entries)


def _tsv(segments: Sequence[Segment], speeches: Sequence[Speech], name: str) -> str:
    rows = (
        f"{round(1000 * x.start_seconds)}\t{round(1000 * x.end_seconds)}\t{one_line(x.text())}\n"
        for x in segments
    )
    return "start\tend\ttext\n" + "".join(rows)


def _ctm(segments: Sequence[Segment], speeches: Sequence[Speech], name: str) -> str:
    place = re.sub(r"\s", "_", name) or "_"
    return "".join(
        f"{place} {speech.channel or 1} {word.start_seconds:.2f} "
        f"{word.end_seconds - word.start_seconds:.2f} {word.text} {word.confidence:.4f}\n"
        for speech in speeches
        for word in speech.words
    )


def _times(segment: Segment, mark: str, hours: bool) -> str:
    return " --> ".join(
        _clock(seconds, mark, hours) for seconds in (segment.start_seconds, segment.end_seconds)
    )


def _clock(seconds: float, mark: str, hours: bool) -> str:
    """Returns a time as [HH:]MM:SS.mmm; hours only if they are wanted or above zero."""
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    hour, minutes = divmod(minutes, 60)
    front = f"{hour:02d}:" if hours or hour else ""
    return f"{front}{minutes:02d}:{milliseconds // 1000:02d}{mark}{milliseconds % 1000:03d}"


def _shown(segment: Segment) -> str:
    return segment.text("\n").replace("-->", "->")


def _escaped(text: str) -> str:
    """Returns a text for WebVTT, in which `&` and `<` begin a character or a tag."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


_Writer = Callable[[Sequence[Segment], Sequence[Speech], str], str]
_WRITERS: dict[str, _Writer] = {
    "text": _text,
    "json": _json,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
    "ctm": _ctm,
}
SUFFIXES = {kind: f".{'txt' if kind == 'text' else kind}" for kind in _WRITERS}
