"""Opens exported wav2vec 2.0 models for recognition in Python, in programs and in servers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Unpack

from tools.config.making_options import from_keywords, takes_options
from tools.conversion.pipeline import describe
from tools.conversion.protocol import Examples
from tools.errors import UserError
from tools.inference.opening import open_runner
from tools.inference.options import RunnerOptions, check_seconds
from tools.inference.pretrained import exported_model
from tools.recognition.beams import ctc_beam_search, hot_words_of
from tools.recognition.ctc_decoder import CtcDecoder
from tools.recognition.examples import read_examples
from tools.recognition.options import RecognitionKeywords, RecognitionOptions
from tools.recognition.searches import check_search
from tools.recognition.session import SpeechSession
from tools.recognition.windows import calibration_limits, session_lengths
from tools.speech.audio import is_path
from tools.speech.transcripts import normalization

FAMILY = "wav2vec2"


@takes_options(RecognitionOptions)
def load(model_dir: str | Path, **options: Unpack[RecognitionKeywords]) -> SpeechSession:
    """Opens a wav2vec 2.0 model that recognizes speech.

    The options have the same names as the flags of `python -m wav2vec2.infer`. For example,
    `quant_precision="int8_fp32"` with `calibration_data_dir=DIR` runs the model in 8-bit integers.

    Args:
        model_dir: directory of an exported SavedModel or of a converted model; or weights, which
            are exported into the user's cache first: a Hugging Face folder,
            `hf:owner/name[@revision]`, a training run or a checkpoint.
        **options: see `tools.recognition.options.RecognitionOptions`.

    Returns:
        A session whose `transcribe` returns the text of recordings of any length. Close it after
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
    check_search(pipeline, options.beam_width)
    lengths = session_lengths(model_dir, pipeline, options)
    hot_words = hot_words_of(pipeline, options.hotwords, transcript_normalization)
    search = None
    if beam is not None:
        search = ctc_beam_search(pipeline, beam, options.n_best, hot_words=hot_words)
    runner = open_runner(model_dir, options, calibration_examples)
    return SpeechSession(
        runner,
        CtcDecoder(pipeline, search, options.n_best, hot_words=hot_words),
        batch_size=options.batch_size,
        normalize=transcript_normalization(pipeline),
        **lengths,
    )


def transcript_normalization(pipeline: Mapping) -> Callable[[str], str]:
    """Returns the function that normalizes transcripts for the vocabulary of a model.

    Args:
        pipeline: content of the model's `pipeline.json`.
    """
    return normalization(pipeline["vocabulary"]["surfaces"])


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
    limits = calibration_limits(pipeline)
    normalize = transcript_normalization(pipeline)
    return read_examples(
        data_dir, num_samples, limits, judged, decoder=CtcDecoder(pipeline), normalize=normalize
    )
