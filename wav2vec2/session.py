"""Opens exported wav2vec 2.0 models: what programs, Python users and servers hold."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from tools.config.making_options import from_keywords, takes_options
from tools.conversion.pipeline import describe
from tools.conversion.protocol import Examples
from tools.errors import UserError
from tools.inference.opening import open_runner
from tools.inference.options import RunnerKeywords, RunnerOptions, check_seconds
from tools.recognition.decoders import CtcDecoder
from tools.recognition.examples import read_examples
from tools.recognition.session import SpeechSession
from tools.speech.audio import AudioLimits
from tools.speech.language_model import BeamSearch
from tools.speech.long_audio import Window
from tools.speech.transcripts import normalization
from wav2vec2.beam_search import PrefixBeamSearch

FAMILY = "wav2vec2"
LONGEST_SECONDS = 8 * 3600.0  # of a recording in chunks
_DEFAULT_CHUNK_SECONDS = 20.0  # less where a model takes less at once


@dataclass(frozen=True, slots=True)
class RecognitionOptions(RunnerOptions):
    """How sounds are recognized.

    Attributes:
        chunk_seconds: what longer recordings are cut into.
        overlap_seconds: what a chunk shares with the next one.
        beam_width: hypotheses of a beam search; 0: greedy search alone.
        lm_path: its n-gram model, ARPA or of KenLM.
        lm_weight: weight of that model.
        word_bonus: added for each word with that model.
    """

    chunk_seconds: float = _DEFAULT_CHUNK_SECONDS
    overlap_seconds: float = 4.0
    beam_width: int = 0
    lm_path: str | None = None
    lm_weight: float = 0.5
    word_bonus: float = 1.5

    def beam_search(self) -> BeamSearch | None:
        """Gives the beam search; None where there is none.

        Raises:
            UserError: a language model without a beam, or a value out of its range.
        """
        if self.beam_width == 0:
            if self.lm_path:
                raise UserError.expected("--beam_width with --lm_path", 0, "Give --beam_width 100")
            return None
        return BeamSearch(self.beam_width, self.lm_path, self.lm_weight, self.word_bonus)


class RecognitionKeywords(RunnerKeywords, total=False):
    """The fields of `RecognitionOptions` for type checkers."""

    chunk_seconds: float
    overlap_seconds: float
    beam_width: int
    lm_path: str | None
    lm_weight: float
    word_bonus: float


@takes_options(RecognitionOptions)
def load(model_dir: str | Path, **options: Unpack[RecognitionKeywords]) -> SpeechSession:
    """Opens a wav2vec 2.0 model that recognizes speech.

    The options have the names of the flags of `python -m wav2vec2.infer`: for example
    `quant_precision="int8_fp32"` with `calibration_data_dir=DIR` computes in 8 bits.

    Args:
        model_dir: an exported SavedModel, or a converted model.
        **options: see `RecognitionOptions`.

    Returns:
        A session with `transcribe`, for recordings of up to eight hours; close it, or use it in a
        `with` statement. The first call for a model converts it, which is said on stderr.

    Raises:
        tools.errors.UserError: a bad directory or option.

    Example:
        >>> import wav2vec2
        >>> with wav2vec2.load("exports/w2v", run_eagerly=True) as model:
        ...     heard = model.transcribe("lecture.wav", timestamps=True)
        >>> heard.duration_seconds
        60.0
        >>> heard.text.split() == [word.text for word in heard.words]
        True
    """
    return open_session(model_dir, from_keywords(RecognitionOptions, options))


def open_session(model_dir: str | Path, options: RunnerOptions) -> SpeechSession:
    """Opens a model by options; see `load`."""
    if not isinstance(options, RecognitionOptions):
        options = from_keywords(RecognitionOptions, options.as_keywords())
    check_seconds(options.max_seconds)
    beam = options.beam_search()
    pipeline = describe(model_dir, FAMILY)
    search = None
    if beam is not None:
        vocabulary = pipeline["vocabulary"]["surfaces"]
        search = PrefixBeamSearch(vocabulary, pipeline["blank"], beam)
    window = window_of(pipeline, options)
    runner = open_runner(model_dir, options, calibration_examples)
    return SpeechSession(
        runner,
        CtcDecoder(pipeline, search),
        limits_of(pipeline, options),
        batch_size=options.batch_size,
        window=window,
    )


def limits_of(pipeline: Mapping, options: RecognitionOptions) -> AudioLimits:
    """Gives the limits of the sounds that a session takes."""
    return _limits(pipeline, options.max_seconds or LONGEST_SECONDS)


def window_of(pipeline: Mapping, options: RecognitionOptions) -> Window:
    """Gives the window that longer recordings are cut by.

    Raises:
        UserError: a chunk that the model does not take at once, or a bad overlap.
    """
    longest = pipeline["max_seconds"]
    chunk_seconds, overlap_seconds = options.chunk_seconds, options.overlap_seconds
    if longest < chunk_seconds < math.inf:
        if chunk_seconds != _DEFAULT_CHUNK_SECONDS:
            raise UserError.expected(
                f"--chunk_seconds up to the model's {longest:g}",
                chunk_seconds,
                "Give a smaller one",
            )
        chunk_seconds, overlap_seconds = longest, min(overlap_seconds, longest / 4)
    return Window.of_seconds(
        chunk_seconds, overlap_seconds, pipeline["hop_samples"], pipeline["sample_rate_hz"]
    )


def calibration_examples(
    pipeline: Mapping, data_dir: Path, num_samples: int, judged: bool
) -> Examples:
    """Reads utterances to calibrate with; see `tools.families.Family`."""
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
