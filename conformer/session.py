"""Opens exported Conformers for recognition in Python, in programs and in servers."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Unpack

from conformer.subwords import subword_normalization
from conformer.tensorflow_asr import refuse_weights
from tools.config.making_options import from_keywords, takes_options
from tools.conversion.machine import num_cores
from tools.conversion.pipeline import describe
from tools.conversion.protocol import Examples
from tools.inference.opening import open_runner
from tools.inference.options import RunnerOptions, check_seconds
from tools.inference.pretrained import exported_model
from tools.recognition.beams import beam_search_of, hot_words_of
from tools.recognition.examples import read_examples
from tools.recognition.options import RecognitionKeywords, RecognitionOptions
from tools.recognition.searches import check_search
from tools.recognition.session import SpeechSession
from tools.recognition.transducer_decoder import TransducerDecoder
from tools.recognition.windows import calibration_limits, session_lengths
from tools.speech.transcripts import normalization, normalize_transcript

FAMILY = "conformer"
BUNDLED_MODEL = Path(__file__).resolve().parent / "pretrained" / "digits"


@takes_options(RecognitionOptions)
def load(
    model_dir: str | Path | None = None, **options: Unpack[RecognitionKeywords]
) -> SpeechSession:
    """Opens a Conformer that recognizes speech.

    The options have the same names as the flags of `python -m conformer.infer`. For example,
    `quant_precision="int8_fp32"` with `calibration_data_dir=DIR` runs the model in 8-bit integers.

    Args:
        model_dir: directory of an exported SavedModel or of a converted model; or a training run,
            a checkpoint or a published model (a folder of Hugging Face, a `.nemo` archive, or
            `hf:owner/name`), which is exported into the user's cache first. None opens the
            bundled model, which recognizes spoken English digits.
        **options: see `tools.recognition.options.RecognitionOptions`.

    Returns:
        A session whose `transcribe` returns the text of sounds. Close it after use, or use it in a
        `with` statement. The first call for a SavedModel converts it. This takes about half a
        minute, and a message on stderr announces it.

    Raises:
        tools.errors.UserError: the directory holds no such model, or an option is invalid.

    Example:
        >>> import conformer
        >>> model = conformer.load()
        >>> model.transcribe("conformer/pretrained/digits/sample.flac").text
        'ONE SEVEN NINE ZERO'
    """
    place = exported(BUNDLED_MODEL if model_dir is None else model_dir)
    return open_session(place, from_keywords(RecognitionOptions, options))


def exported(source: str | Path) -> Path:
    """Returns the directory of an exported model; see `tools.inference.pretrained`.

    Args:
        source: see `load`.
    """
    import conformer

    refuse_weights(source)
    # Imports TensorFlow, but only if it is called.
    return exported_model(source, FAMILY, lambda *paths: conformer.export_source(*paths))


def open_session(model_dir: str | Path, options: RunnerOptions) -> SpeechSession:
    """Opens a model for recognition; `load` is the same function with options as keywords.

    Args:
        model_dir: directory of an exported SavedModel or of a converted model.
        options: runtime, precision, batch size, limits, chunks and beam search.

    Raises:
        UserError: the directory holds no such model, or an option is invalid.
    """
    if not isinstance(options, RecognitionOptions):
        options = from_keywords(RecognitionOptions, options.as_keywords())
    check_seconds(options.max_seconds)
    beam = options.beam_search()
    pipeline = describe(model_dir, FAMILY)
    check_search(pipeline, options.beam_width)
    lengths = session_lengths(model_dir, pipeline, options)
    hot_words = hot_words_of(pipeline, options.hotwords, transcript_normalization)
    # TensorFlow itself divides a call among threads. Calls of a fixed size are never smaller.
    whole = options.run_eagerly or not options.enable_dim_range
    threads = 1 if whole else options.execution.threads or num_cores()
    search = None
    if beam is not None:
        search = beam_search_of(
            pipeline,
            beam,
            options.n_best,
            norm_score=options.norm_score,
            hot_words=hot_words,
            threads=threads,
        )
    runner = open_runner(model_dir, options, calibration_examples)
    in_graph = "serving_default" in runner.signatures
    decoder = TransducerDecoder(
        runner.pipeline, in_graph, search, options.n_best, hot_words=hot_words, threads=threads
    )
    return SpeechSession(
        runner,
        decoder,
        batch_size=options.batch_size,
        normalize=transcript_normalization(runner.pipeline),
        **lengths,
    )


def transcript_normalization(pipeline: Mapping) -> Callable[[str], str]:
    """Returns the function that normalizes reference transcripts as in the model's training.

    Args:
        pipeline: content of the model's `pipeline.json`.
    """
    vocabulary = pipeline["vocabulary"]
    if vocabulary["kind"] == "subwords":
        return subword_normalization(vocabulary["surfaces"])
    if vocabulary["kind"] in ("pieces", "sentencepiece"):  # published models write any case
        return normalization(vocabulary["surfaces"], longest=math.inf)
    return normalize_transcript


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
    decoder = TransducerDecoder(pipeline, in_graph=False)
    normalize = transcript_normalization(pipeline)
    return read_examples(
        data_dir, num_samples, limits, judged, decoder=decoder, normalize=normalize
    )
