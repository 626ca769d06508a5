"""Lengths of sounds and of the chunks of long recordings, from an export and the options."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tools.errors import UserError
from tools.inference.opening import longest_seconds
from tools.recognition.options import RecognitionOptions
from tools.recognition.word_times import hop_samples_of
from tools.speech.audio import AudioLimits
from tools.speech.long_audio import Window

LONGEST_SECONDS = 100 * 3600.0  # longest recording without a limit of the user
_LONGEST_CHUNK_SECONDS = 60.0


def limits_of(pipeline: Mapping, options: RecognitionOptions) -> AudioLimits:
    """Returns the sample rate in Hz and the shortest and longest sounds that a session accepts.

    Args:
        pipeline: content of the model's `pipeline.json`.
        options: `max_seconds` limits the length of recordings, if it is set.
    """
    return _limits(pipeline, options.max_seconds or LONGEST_SECONDS)


def calibration_limits(pipeline: Mapping) -> AudioLimits:
    """Returns the limits of sounds that the model runs at once.

    Args:
        pipeline: content of the model's `pipeline.json`.
    """
    return _limits(pipeline, pipeline["max_seconds"])


def window_of(
    pipeline: Mapping, options: RecognitionOptions, at_once_seconds: float | None = None
) -> Window:
    """Returns the length and the overlap of the chunks that long recordings are cut into.

    Args:
        pipeline: content of the model's `pipeline.json`. `long_audio` gives the length of a chunk
            and the context on each side of it. Without `long_audio`, a chunk is as long as the
            model accepts, at most 60 s, and a tenth of it is the context on each side.
        options: `chunk_seconds` and `overlap_seconds` replace these values.
        at_once_seconds: longest sound for one run of the model; None: `max_seconds` of `pipeline`.

    Raises:
        UserError: a chunk is longer than the model accepts, or the overlap is out of range.
    """
    longest = pipeline["max_seconds"] if at_once_seconds is None else at_once_seconds
    chunk, overlap = options.chunk_seconds, options.overlap_seconds
    if chunk is not None and chunk > longest:
        raise UserError.expected(
            f"--chunk_seconds of at most {longest:g}, the limit of the model",
            chunk,
            "Lower --chunk_seconds",
        )
    known = pipeline.get("long_audio", {})
    if chunk is None:
        chunk = min(known.get("chunk_seconds", _LONGEST_CHUNK_SECONDS), longest)
    if overlap is None:
        overlap = 2 * min(known.get("context_seconds", chunk / 10), chunk / 10)
    window = Window.of_seconds(chunk, overlap, hop_samples_of(pipeline), pipeline["sample_rate_hz"])
    # If padding counts as sound, a chunk without its pauses would have another result.
    masks_padding = pipeline.get("mask_padding", pipeline.get("kind") == "transducer")
    return window if masks_padding else replace(window, pause_frames=None)


def session_lengths(
    model_dir: str | Path, pipeline: Mapping, options: RecognitionOptions
) -> dict[str, Any]:
    """Returns the arguments of `SpeechSession` that are lengths.

    Args:
        model_dir: directory of a SavedModel or of a converted model.
        pipeline: content of the model's `pipeline.json`.
        options: options of the session.

    Raises:
        UserError: an option is out of range.
    """
    least = options.skip_silence_seconds
    if least is not None and not 0.5 <= least <= LONGEST_SECONDS:
        raise UserError.expected("--skip_silence_seconds >= 0.5", least, "Correct the flag")
    longest = longest_seconds(model_dir, pipeline, options)
    at_once = min(pipeline["max_seconds"], LONGEST_SECONDS if longest is None else longest)
    return {
        "limits": limits_of(pipeline, options),
        "window": window_of(pipeline, options, at_once),
        "at_once_seconds": at_once,
        "skip_silence_seconds": least,
    }


def _limits(pipeline: Mapping, max_seconds: float) -> AudioLimits:
    return AudioLimits(
        rate_hz=pipeline["sample_rate_hz"],
        min_seconds=pipeline["min_seconds"],
        max_seconds=max_seconds,
    )
