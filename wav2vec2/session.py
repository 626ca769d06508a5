"""Opens exported wav2vec 2.0 models for recognition in Python, in programs and in servers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from tools.config.making_options import from_keywords, takes_options
from tools.conversion.pipeline import describe
from tools.conversion.protocol import Examples
from tools.errors import UserError
from tools.inference.opening import open_runner
from tools.inference.options import RunnerOptions, check_seconds
from tools.inference.pretrained import exported_model
from tools.recognition.beams import ctc_beam_search
from tools.recognition.decoders import CtcDecoder
from tools.recognition.examples import read_examples
from tools.recognition.options import SearchKeywords, SearchOptions
from tools.recognition.session import SpeechSession
from tools.speech.audio import AudioLimits, is_path
from tools.speech.long_audio import Window
from tools.speech.transcripts import normalization

FAMILY = "wav2vec2"
LONGEST_SECONDS = 8 * 3600.0  # longest recording that is recognized in chunks
_DEFAULT_CHUNK_SECONDS = 20.0  # shorter if the model accepts only shorter sounds


@dataclass(frozen=True, slots=True)
class RecognitionOptions(SearchOptions):
    """Options for recognition.

    Attributes:
        chunk_seconds: length of the chunks that longer recordings are cut into.
        overlap_seconds: overlap of two chunks.
    """

    chunk_seconds: float = _DEFAULT_CHUNK_SECONDS
    overlap_seconds: float = 4.0


class RecognitionKeywords(SearchKeywords, total=False):
    """The fields of `RecognitionOptions` for type checkers."""

    chunk_seconds: float
    overlap_seconds: float


@takes_options(RecognitionOptions)
def load(model_dir: str | Path, **options: Unpack[RecognitionKeywords]) -> SpeechSession:
    """Opens a wav2vec 2.0 model that recognizes speech.

    The options have the same names as the flags of `python -m wav2vec2.infer`. For example,
    `quant_precision="int8_fp32"` with `calibration_data_dir=DIR` runs the model in 8-bit integers.

    Args:
        model_dir: directory of an exported SavedModel or of a converted model; or weights, which
            are exported into the user's cache first: a Hugging Face folder,
            `hf:owner/name[@revision]`, a training run or a checkpoint.
        **options: see `RecognitionOptions`.

    Returns:
        A session whose `transcribe` returns the text of recordings of up to 8 hours. Close it after
        use, or use it in a `with` statement. The first call for a SavedModel converts it, and a
        message on stderr announces this.

    Raises:
        tools.errors.UserError: the directory holds no such model, or an option is invalid.

    Example:
        >>> import wav2vec2
        >>> with wav2vec2.load("exports/w2v", run_eagerly=True) as model:
        ...     heard = model.transcribe("lecture.wav", timestamps=True)
        >>> heard.duration_seconds
        60.0
        >>> heard.text.split() == [word.text for word in heard.words]
        True
    """
    return open_session(exported(model_dir), from_keywords(RecognitionOptions, options))


def exported(source: str | Path) -> Path:
    """Returns the directory of an exported model; see `tools.inference.pretrained`.

    Args:
        source: see `load`.
    """
    import wav2vec2

    # Imports TensorFlow, but only if it is called.
    return exported_model(source, FAMILY, lambda *paths: wav2vec2.export_source(*paths))


def open_session(model_dir: str | Path, options: RunnerOptions) -> SpeechSession:
    """Opens a model for recognition; `load` is the same function with options as keywords.

    Args:
        model_dir: directory of an exported SavedModel or of a converted model.
        options: runtime, precision, batch size, chunks and beam search.

    Raises:
        UserError: the directory holds no such model, or an option is invalid.
    """
    if not isinstance(options, RecognitionOptions):
        options = from_keywords(RecognitionOptions, options.as_keywords())
    check_seconds(options.max_seconds)
    beam = options.beam_search()
    pipeline = describe_model(model_dir)
    search = None if beam is None else ctc_beam_search(pipeline, beam, options.n_best)
    window = window_of(pipeline, options)
    runner = open_runner(model_dir, options, calibration_examples)
    return SpeechSession(
        runner,
        CtcDecoder(pipeline, search, options.n_best),
        limits_of(pipeline, options),
        batch_size=options.batch_size,
        window=window,
    )


def describe_model(model_dir: str | Path) -> dict:
    """Returns the content of `pipeline.json` of an exported or converted model.

    Raises:
        UserError: the directory holds no such model. For a Hugging Face folder, the message tells
            how to export it.
    """
    try:
        return describe(model_dir, FAMILY)
    except UserError:
        if is_path(model_dir) and Path(model_dir, "config.json").is_file():
            raise UserError.expected(
                "an exported SavedModel",
                f"{model_dir}, a Hugging Face folder",
                f"Export it first: python -m wav2vec2.export --pytorch_model_dir {model_dir}",
            ) from None
        raise


def limits_of(pipeline: Mapping, options: RecognitionOptions) -> AudioLimits:
    """Returns the sample rate in Hz and the shortest and longest sounds that a session accepts.

    Args:
        pipeline: content of the model's `pipeline.json`.
        options: `max_seconds` limits the length of recordings, if it is set.
    """
    return _limits(pipeline, options.max_seconds or LONGEST_SECONDS)


def window_of(pipeline: Mapping, options: RecognitionOptions) -> Window:
    """Returns the length and the overlap of the chunks that longer recordings are cut into.

    Args:
        pipeline: content of the model's `pipeline.json`.
        options: `chunk_seconds` and `overlap_seconds` are used.

    Raises:
        UserError: a chunk is longer than the model accepts, or the overlap is out of range.
    """
    longest = pipeline["max_seconds"]
    chunk_seconds, overlap_seconds = options.chunk_seconds, options.overlap_seconds
    if longest < chunk_seconds < math.inf:
        if chunk_seconds != _DEFAULT_CHUNK_SECONDS:
            raise UserError.expected(
                f"--chunk_seconds of at most {longest:g}, the limit of the model",
                chunk_seconds,
                "Lower --chunk_seconds",
            )
        chunk_seconds, overlap_seconds = longest, min(overlap_seconds, longest / 4)
    window = Window.of_seconds(
        chunk_seconds, overlap_seconds, pipeline["hop_samples"], pipeline["sample_rate_hz"]
    )
    # Without a mask the padding behind a shorter chunk changes its result.
    return window if pipeline.get("mask_padding") else replace(window, pause_frames=None)


def calibration_examples(
    pipeline: Mapping, data_dir: Path, num_samples: int, judged: bool
) -> Examples:
    """Reads utterances for calibration of a quantized model; see `tools.families.Family`.

    Args:
        pipeline: content of the model's `pipeline.json`.
        data_dir: corpus in LibriSpeech layout, or folder of sound files.
        num_samples: number of utterances to read, spread over the whole data set.
        judged: whether the accuracy on these utterances will be measured.

    Raises:
        UserError: the data set has no usable utterances.
    """
    limits = _limits(pipeline, pipeline["max_seconds"])
    normalize = normalization(pipeline["vocabulary"]["surfaces"])
    return read_examples(
        data_dir, num_samples, limits, judged, decoder=CtcDecoder(pipeline), normalize=normalize
    )


def _limits(pipeline: Mapping, max_seconds: float) -> AudioLimits:
    return AudioLimits(
        rate_hz=pipeline["sample_rate_hz"],
        min_seconds=pipeline["min_seconds"],
        max_seconds=max_seconds,
    )
