"""The transcription interface that speech clients have: `POST /v1/audio/transcriptions`.

Source: OpenAI's API reference, `audio.transcriptions`; openai 3.57.0, `openai/types/audio`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tools.errors import UserError
from tools.files import one_line, to_json
from tools.recognition.decoders import Transcription
from tools.serving.requests import Refusal, openai_error
from tools.speech.subtitles import Lines, Speech, write

FORMATS = {
    "json": "application/json",
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "verbose_json": "application/json",
}
GRANULARITIES = ("segment", "word")
# Says why the rest of a long recording could not be read, as `damage` does in JSON.
DAMAGE_HEADER = "X-Damage"
_MOST_PROMPT_CHARACTERS = 4000
_BETWEEN_PHRASES = re.compile(r"[,;.!?:\n]+")
_LANGUAGES = {"en": "english", "de": "german", "fr": "french", "es": "spanish", "zh": "chinese"}


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """The fields of a request besides the file and the model.

    Attributes:
        response_format: a key of `FORMATS`.
        granularities: what a `verbose_json` answer lists: `segment`, `word` or both.
        stream: whether the answer is a stream of server-sent events.
        hot_words: phrases of the prompt, which the search prefers.
    """

    response_format: str = "json"
    granularities: tuple[str, ...] = ("segment",)
    stream: bool = False
    hot_words: tuple[str, ...] = ()


def transcription_request(
    fields: Mapping[str, list[str]], language: str | None
) -> TranscriptionRequest:
    """Checks the fields of a request. Fields that have no effect here are ignored.

    Args:
        fields: values of each field.
        language: language of the model as a code of two letters; None if it is not known.

    Raises:
        UserError: a field has another value than the interface or the model accepts.
    """
    chosen = _one_of(fields, "response_format", tuple(FORMATS), "json")
    names = ("timestamp_granularities[]", "timestamp_granularities")
    asked = [value for name in names for value in fields.get(name, ())]
    for value in asked:
        if value not in GRANULARITIES:
            raise UserError.expected(
                f"timestamp_granularities of {' and '.join(GRANULARITIES)}",
                one_line(value[:50]),
                "Correct the field",
            )
    if asked and chosen != "verbose_json":
        raise UserError.expected(
            "response_format verbose_json with timestamp_granularities",
            chosen,
            "Correct one of them",
        )
    spoken = next(iter(fields.get("language", ())), "")
    if spoken and language and spoken.lower() not in (language, _LANGUAGES.get(language)):
        raise UserError.expected(
            f"language {language}, which the model knows",
            one_line(spoken[:50]),
            "Leave the field out, or use another model",
        )
    stream = _one_of(fields, "stream", ("true", "false", "True", "False", "1", "0"), "false")
    granularities = tuple(x for x in GRANULARITIES if x in (asked or ["segment"]))
    return TranscriptionRequest(
        chosen,
        granularities,
        stream in ("true", "True", "1"),
        _phrases(" ".join(fields.get("prompt", ()))),
    )


def _phrases(prompt: str) -> tuple[str, ...]:
    """Returns the phrases of a prompt, which punctuation and line ends separate."""
    if len(prompt) > _MOST_PROMPT_CHARACTERS:
        raise UserError.expected(
            f"a prompt of at most {_MOST_PROMPT_CHARACTERS} characters", len(prompt), "Shorten it"
        )
    pieces = (" ".join(piece.split()) for piece in _BETWEEN_PHRASES.split(prompt))
    return tuple(dict.fromkeys(piece for piece in pieces if piece))


def _one_of(
    fields: Mapping[str, list[str]], name: str, values: tuple[str, ...], default: str
) -> str:
    given = next(iter(fields.get(name, ())), default) or default
    if given not in values:
        raise UserError.expected(
            f"{name} of {', '.join(values)}", one_line(given[:50]), "Correct the field"
        )
    return given


def answer(found: Transcription, request: TranscriptionRequest, language: str | None) -> str:
    """Returns the body of an answer.

    Args:
        found: text and words of the sound.
        request: the fields of the request.
        language: language of the model, or None.
    """
    seconds = found.duration_seconds or 0.0
    rest: dict[str, Any] = {"usage": {"type": "duration", "seconds": round(seconds)}}
    rest |= _damage(found.damage)
    if request.response_format == "json":
        return to_json({"text": spoken(found), **rest})
    if request.response_format == "text":
        return f"{spoken(found)}\n"
    speech = Speech(spoken(found), found.words, found.log_probability)
    if request.response_format != "verbose_json":
        return write(request.response_format, [speech], "", Lines())
    told = json.loads(write("json", [speech], "", Lines()))
    words = [word for segment in told["segments"] for word in segment.pop("words")]
    content: dict[str, Any] = {
        "task": "transcribe",
        "language": _LANGUAGES.get(language or "", language or ""),
        "duration": round(seconds, 3),
        "text": spoken(found),
    }
    if "word" in request.granularities:
        content["words"] = [
            {"word": word["word"].strip(), "start": word["start"], "end": word["end"]}
            for word in words
        ]
    if "segment" in request.granularities:
        content["segments"] = told["segments"]
    return to_json({**content, **rest})


def _damage(reason: str | None) -> dict[str, str]:
    return {} if reason is None else {"damage": reason}


def spoken(found: Transcription) -> str:
    """Returns the text of beam search if there is one, else that of greedy search."""
    return found.text if found.beam_text is None else found.beam_text


class Deltas:
    """Makes server-sent events of a text that grows. A word is sent when the next one begins."""

    def __init__(self):
        self._sent = ""

    def so_far(self, text: str) -> Iterator[str]:
        """Yields the events for the new words of a text without its last one.

        Args:
            text: the text so far.
        """
        return self._new(text[: max(text.rfind(" "), 0)])

    def end(self, text: str, damage: str | None = None) -> Iterator[str]:
        """Yields the events for the other words, and the last event with the whole text.

        Args:
            text: the whole text.
            damage: see `Transcription`.
        """
        yield from self._new(text)
        yield _event({"type": "transcript.text.done", "text": text, **_damage(damage)})

    def _new(self, text: str) -> Iterator[str]:
        # A beam search can change words that were sent: only the last event then has all of them.
        if text.startswith(self._sent):
            for piece in re.findall(r"\s*\S+", text[len(self._sent) :]):
                yield _event({"type": "transcript.text.delta", "delta": piece})
            self._sent = text


def error_event(refusal: Refusal) -> str:
    """Returns the event for an error after the answer has begun.

    Args:
        refusal: status and message.
    """
    return _event({"type": "error", "error": openai_error(refusal)})


def _event(content: dict) -> str:
    return f"data: {to_json(content)}\n\n"
