"""The transcription interface: fields of requests, forms of answers."""

import json

import pytest

from tests.support.errors import refused
from tools.decoding.timestamps import Word
from tools.recognition.decoders import Transcription
from tools.serving.requests import Refusal
from tools.serving.transcription import (
    FORMATS,
    Deltas,
    TranscriptionRequest,
    answer,
    error_event,
    transcription_request,
)

WORDS = (
    Word("ONE", 0.1, 0.4, confidence=0.9, tokens=(5,)),
    Word("TWO", 0.5, 0.75, confidence=0.8, tokens=(6, 7)),
    Word("SIX", 3.0, 3.25, confidence=0.7, tokens=(8,)),
)
FOUND = Transcription("ONE TWO SIX", WORDS, -2.5, duration_seconds=4.2)


def test_fields_that_are_left_out():
    assert transcription_request({}, "en") == TranscriptionRequest("json", ("segment",), False)


def test_fields_that_are_given():
    fields = {
        "response_format": ["verbose_json"],
        "timestamp_granularities[]": ["word", "segment"],
        "stream": ["true"],
        "temperature": ["0.2"],
        "prompt": ["names"],
        "include[]": ["logprobs"],
    }
    asked = transcription_request(fields, None)
    assert asked == TranscriptionRequest("verbose_json", ("segment", "word"), True, ("names",))


@pytest.mark.parametrize(
    ("prompt", "phrases"),
    [
        ("", ()),
        (" , ;", ()),
        ("Nineveh, Seven  Oaks;\nOne", ("Nineveh", "Seven Oaks", "One")),
        ("again. again", ("again",)),
        ("tab\tinside", ("tab inside",)),
    ],
)
def test_a_prompt_is_a_list_of_phrases(prompt, phrases):
    assert transcription_request({"prompt": [prompt]}, None).hot_words == phrases


@pytest.mark.parametrize("language", ["en", "EN", "english", ""])
def test_the_language_of_the_model_is_accepted(language):
    transcription_request({"language": [language]}, "en")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"response_format": ["xml"]}, "response_format of json"),
        ({"stream": ["maybe"]}, "stream of true"),
        ({"language": ["de"]}, "language en"),
        ({"prompt": ["x" * 4001]}, "a prompt of at most 4000 characters"),
        ({"timestamp_granularities[]": ["word"]}, "response_format verbose_json"),
        (
            {"response_format": ["verbose_json"], "timestamp_granularities[]": ["letter"]},
            "segment and word",
        ),
    ],
)
def test_other_values_are_refused(fields, message):
    with refused(message):
        transcription_request(fields, "en")


def test_json_and_text():
    found = json.loads(answer(FOUND, TranscriptionRequest("json"), "en"))
    assert found == {"text": "ONE TWO SIX", "usage": {"type": "duration", "seconds": 4}}
    assert answer(FOUND, TranscriptionRequest("text"), "en") == "ONE TWO SIX\n"


def test_the_text_of_beam_search_comes_first():
    found = Transcription("ONE", beam_text="NINE", duration_seconds=1.0)
    assert json.loads(answer(found, TranscriptionRequest("json"), None))["text"] == "NINE"


def test_subtitles():
    assert answer(FOUND, TranscriptionRequest("srt"), "en") == (
        "1\n00:00:00,100 --> 00:00:00,750\nONE TWO\n\n2\n00:00:03,000 --> 00:00:03,250\nSIX\n\n"
    )
    assert answer(FOUND, TranscriptionRequest("vtt"), "en") == (
        "WEBVTT\n\n00:00.100 --> 00:00.750\nONE TWO\n\n00:03.000 --> 00:03.250\nSIX\n\n"
    )


@pytest.mark.parametrize("granularities", [("segment",), ("word",), ("segment", "word")])
def test_verbose_json_lists_what_was_asked_for(granularities):
    asked = TranscriptionRequest("verbose_json", granularities)
    found = json.loads(answer(FOUND, asked, "en"))
    assert (found["task"], found["language"], found["duration"]) == ("transcribe", "english", 4.2)
    assert found["text"] == "ONE TWO SIX"
    assert ("words" in found, "segments" in found) == (
        "word" in granularities,
        "segment" in granularities,
    )
    if "word" in granularities:
        assert found["words"] == [
            {"word": "ONE", "start": 0.1, "end": 0.4},
            {"word": "TWO", "start": 0.5, "end": 0.75},
            {"word": "SIX", "start": 3.0, "end": 3.25},
        ]
    if "segment" in granularities:
        first, second = found["segments"]
        assert (first["text"].strip(), first["tokens"]) == ("ONE TWO", [5, 6, 7])
        assert (second["start"], second["end"]) == (3.0, 3.25)
        assert set(first) == set(
            "id seek start end text tokens temperature avg_logprob compression_ratio "
            "no_speech_prob".split()
        )


def test_silence_has_no_words_and_no_segments():
    silent = Transcription("", (), 0.0, duration_seconds=1.0)
    asked = TranscriptionRequest("verbose_json", ("segment", "word"))
    found = json.loads(answer(silent, asked, None))
    assert (found["text"], found["words"], found["segments"]) == ("", [], [])
    for name in FORMATS:
        answer(silent, TranscriptionRequest(name), None)


def contents(events):
    """Returns the JSON objects of server-sent events."""
    events = list(events)
    assert all(line.startswith("data: ") and line.endswith("\n\n") for line in events)
    return [json.loads(line.removeprefix("data: ")) for line in events]


def test_events_make_up_the_text():
    found = contents(Deltas().end("ONE TWO SIX"))
    assert [x["delta"] for x in found[:-1]] == ["ONE", " TWO", " SIX"]
    assert {x["type"] for x in found[:-1]} == {"transcript.text.delta"}
    assert found[-1] == {"type": "transcript.text.done", "text": "ONE TWO SIX"}


def test_a_text_that_grows_is_sent_once_word_by_word():
    deltas, sent = Deltas(), []
    for text in ("", "ON", "ONE", "ONE T", "ONE T", "ONE TWO SI"):
        sent.append("".join(x["delta"] for x in contents(deltas.so_far(text))))
    assert sent == ["", "", "", "ONE", "", " TWO"]
    assert [x.get("delta") for x in contents(deltas.end("ONE TWO SIX"))] == [" SIX", None]


def test_words_that_changed_are_sent_with_the_last_event():
    deltas = Deltas()
    contents(deltas.so_far("ONE TWO"))
    (done,) = contents(deltas.end("NINE TWO"))
    assert done == {"type": "transcript.text.done", "text": "NINE TWO"}


def test_an_error_after_the_answer_has_begun_is_an_event():
    for status, kind in ((400, "invalid_request_error"), (503, "server_error")):
        (found,) = contents([error_event(Refusal(status, "Expected a sound.", "input"))])
        assert (found["type"], found["error"]["message"]) == ("error", "Expected a sound.")
        assert found["error"]["type"] == kind
