"""Formats of recognized words, read back by readers written from the formats' descriptions."""

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.decoding.timestamps import Word
from tools.speech.subtitles import SUFFIXES, Lines, Speech, segments_of, write

LINES = Lines()


@st.composite
def speeches(draw, channel=None):
    """Words of any length with pauses, also of hours."""
    words, now = [], draw(st.sampled_from([0.0, 3599.0, 40_000.0]))
    for text in draw(st.lists(st.text("ABC-><&;é", min_size=1, max_size=50), max_size=40)):
        now += draw(st.sampled_from([0.0, 0.1234, 0.9, 1.1, 7.0]))
        end = now + draw(st.sampled_from([0.04, 0.5]))
        words.append(Word(text, now, end, draw(st.floats(0, 1)), (len(text), 3)))
        now = end
    return Speech(" ".join(w.text for w in words), words, -3.0, channel)


def seconds_of(clock, mark):
    """Reads [HH:]MM:SS.mmm."""
    match = re.fullmatch(rf"(?:(\d\d+):)?(\d\d):(\d\d){re.escape(mark)}(\d\d\d)", clock)
    hours, minutes, seconds, milliseconds = (int(x or 0) for x in match.groups())
    assert minutes < 60 and seconds < 60
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000


def cues_of(text, mark):
    """Reads blocks of an optional counter, a line of times, and lines of text."""
    cues = []
    for block in text.split("\n\n"):
        if not block.strip():
            continue
        *front, times, rest = re.fullmatch(r"(?:(\d+)\n)?(.* --> .*)\n((?s:.*))", block).groups()
        start, end = times.split(" --> ")
        cues.append((front[0], seconds_of(start, mark), seconds_of(end, mark), rest.split("\n")))
    return cues


def restored(text):
    return text.replace("&lt;", "<").replace("&amp;", "&")


def check_cues(cues, speech, unescape=str):
    words = [word.text.replace("-->", "->") for word in speech.words]
    shown = [unescape(line).split(" ") for _, _, _, lines in cues for line in lines]
    assert list(itertools.chain(*shown)) == words
    for _, start, end, lines in cues:
        assert start < end
        assert 1 <= len(lines) <= 2
        assert all(len(unescape(x)) <= 42 or " " not in x for x in lines)
    assert all(a[2] <= b[1] for a, b in itertools.pairwise(cues))
    if cues:
        assert cues[0][1] == pytest.approx(speech.words[0].start_seconds, abs=0.0006)
        assert cues[-1][2] == pytest.approx(speech.words[-1].end_seconds, abs=0.0006)


@given(speeches())
def test_srt_counts_from_1_and_always_has_hours(speech):
    text = write("srt", [speech], "a", LINES)
    cues = cues_of(text, ",")
    assert [int(number) for number, *_ in cues] == list(range(1, len(cues) + 1))
    assert all(re.match(r"\d\d:\d\d:\d\d,", x) for x in re.findall(r"\S+(?= --> )", text))
    check_cues(cues, speech)


@given(speeches())
def test_vtt_has_hours_only_above_zero_and_no_counters(speech):
    text = write("vtt", [speech], "a", LINES)
    head, _, body = text.partition("\n\n")
    assert head == "WEBVTT"
    cues = cues_of(body, ".")
    assert all(number is None for number, *_ in cues)
    clocks = re.findall(r"(\S+) --> (\S+)\n", body)
    for (_, start, end, _), pair in zip(cues, clocks, strict=True):
        for seconds, clock in zip((start, end), pair, strict=True):
            assert (len(clock) > 9) == (seconds >= 3600)
    check_cues(cues, speech, restored)


@given(speeches())
def test_tsv_has_whole_milliseconds(speech):
    head, *rows = write("tsv", [speech], "a", LINES).splitlines()
    assert head == "start\tend\ttext"
    rows = [row.split("\t") for row in rows]
    assert " ".join(text for _, _, text in rows).split() == [w.text for w in speech.words]
    assert [int(row[0]) for row in rows] == [
        round(1000 * x.start_seconds) for x in segments_of(speech, LINES)
    ]


KEYS = "id seek start end text tokens temperature avg_logprob compression_ratio no_speech_prob"


@given(speeches())
def test_json_has_whispers_keys_and_two_decimals(speech):
    found = json.loads(write("json", [speech], "a", LINES))
    assert found.keys() == {"text", "segments", "language"}
    assert found["text"] == "".join(segment["text"] for segment in found["segments"])
    assert found["text"].split(" ")[1:] == [word.text for word in speech.words]
    words = [word for segment in found["segments"] for word in segment["words"]]
    for number, segment in enumerate(found["segments"]):
        assert list(segment) == [*KEYS.split(), "words"]
        assert segment["id"] == number
        assert segment["text"] == "".join(word["word"] for word in segment["words"])
        assert segment["start"] == segment["words"][0]["start"]
        assert segment["end"] == segment["words"][-1]["end"]
        assert len(segment["tokens"]) == 2 * len(segment["words"])
        assert segment["avg_logprob"] == pytest.approx(-3 / (2 * len(words) + 1))
        assert segment["compression_ratio"] > 0
    for word, true in zip(words, speech.words, strict=True):
        assert list(word) == ["word", "start", "end", "probability"]
        assert word["start"] == round(true.start_seconds, 2)
        assert word["end"] == round(true.end_seconds, 2)
        assert word["probability"] == pytest.approx(true.confidence, abs=1e-4)


@given(speeches(1), speeches(2))
def test_ctm_is_sorted_by_channel_and_time(first, second):
    rows = write("ctm", [first, second], "my talk", LINES).splitlines()
    rows = [row.split(" ") for row in rows]
    assert all(len(row) == 6 and row[0] == "my_talk" for row in rows)
    order = [(row[1], float(row[2])) for row in rows]
    assert order == sorted(order)
    given = [*first.words, *second.words]
    for (_, _, begin, duration, text, confidence), word in zip(rows, given, strict=True):
        assert float(begin) == pytest.approx(word.start_seconds, abs=0.0051)
        assert float(duration) == pytest.approx(word.end_seconds - word.start_seconds, abs=0.0051)
        assert text == word.text
        assert float(confidence) == pytest.approx(word.confidence, abs=1e-4)


def words_of(*texts, pause=0.1):
    return [Word(x, n * (0.3 + pause), n * (0.3 + pause) + 0.3) for n, x in enumerate(texts)]


def shown(words, **lines):
    found = segments_of(Speech("", words), Lines(**lines))
    return [one.text("/") for one in found]


def test_lines_break_at_words_and_subtitles_at_pauses():
    words = words_of("AAAA", "BBBB", "CCCC", "DDDD", "EEEE")
    assert shown(words, max_width=9) == ["AAAA BBBB/CCCC DDDD", "EEEE"]
    assert shown(words, max_width=8) == ["AAAA/BBBB", "CCCC/DDDD", "EEEE"]
    assert shown(words, max_width=9, max_count=1) == ["AAAA BBBB", "CCCC DDDD", "EEEE"]
    assert shown(words, max_width=2, max_count=3) == ["AAAA/BBBB/CCCC", "DDDD/EEEE"]
    assert shown(words_of("A", "B", pause=1.01)) == ["A", "B"]
    assert shown(words_of("A", "B", pause=0.99)) == ["A B"]
    assert shown([]) == []


def test_channels_are_told_apart_and_in_the_order_of_time():
    one = Speech("A C", words_of("A", "C", pause=2.0), None, 1)
    two = Speech("B", [Word("B", 1.0, 1.3)], None, 2)
    assert write("text", [one, two], "x", LINES) == "1: A C\n2: B\n"
    texts = [lines for *_, lines in cues_of(write("srt", [one, two], "x", LINES), ",")]
    assert texts == [["1: A"], ["2: B"], ["1: C"]]
    found = json.loads(write("json", [one, two], "x", LINES))["segments"]
    assert [(x["channel"], x["text"]) for x in found] == [(1, " A"), (2, " B"), (1, " C")]
    assert found[0]["avg_logprob"] is None


def test_examples_of_the_clocks():
    speech = Speech("A", [Word("A", 59.9996, 3661.0405)])
    assert "00:01:00,000 --> 01:01:01,040" in write("srt", [speech], "x", LINES)
    assert "01:00.000 --> 01:01:01.040" in write("vtt", [speech], "x", LINES)


def test_nothing_is_an_empty_document_of_each_kind():
    empty = {kind: write(kind, [Speech("", [])], "x", LINES) for kind in SUFFIXES}
    assert json.loads(empty.pop("json")) == {"text": "", "segments": [], "language": None}
    assert empty == {
        "text": "\n",
        "srt": "",
        "vtt": "WEBVTT\n\n",
        "tsv": "start\tend\ttext\n",
        "ctm": "",
    }
