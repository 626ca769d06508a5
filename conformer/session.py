"""Opens exported Conformers: what programs, Python users and servers hold."""

from collections.abc import Mapping
from pathlib import Path
from typing import Unpack

from tools.config.making_options import from_keywords, takes_options
from tools.conversion.pipeline import describe
from tools.conversion.protocol import Examples
from tools.inference.opening import open_runner
from tools.inference.options import RunnerKeywords, RunnerOptions, check_seconds
from tools.recognition.decoders import TransducerDecoder
from tools.recognition.examples import read_examples
from tools.recognition.session import SpeechSession
from tools.speech.audio import AudioLimits

FAMILY = "conformer"
BUNDLED_MODEL = Path(__file__).resolve().parent / "pretrained" / "digits"


@takes_options(RunnerOptions)
def load(model_dir: str | Path | None = None, **options: Unpack[RunnerKeywords]) -> SpeechSession:
    """Opens a Conformer that recognizes speech.

    The options have the names of the flags of `python -m conformer.infer`: for example
    `quant_precision="int8_fp32"` with `calibration_data_dir=DIR` computes in 8 bits.

    Args:
        model_dir: an exported SavedModel, or a converted model; None: the bundled model, which
            knows spoken English digits.
        **options: see `RunnerOptions`.

    Returns:
        A session with `transcribe`; close it, or use it in a `with` statement. The first call for a
        model converts it, which takes about half a minute and is said on stderr.

    Raises:
        tools.errors.UserError: a bad directory or option.

    Example:
        >>> import conformer
        >>> model = conformer.load()
        >>> model.transcribe("conformer/pretrained/digits/sample.flac").text
        'ONE SEVEN NINE ZERO'
    """
    place = BUNDLED_MODEL if model_dir is None else model_dir
    return open_session(place, from_keywords(RunnerOptions, options))


def open_session(model_dir: str | Path, options: RunnerOptions) -> SpeechSession:
    """Opens a model by options; see `load`."""
    check_seconds(options.max_seconds)
    limits = limits_of(describe(model_dir, FAMILY), options)
    runner = open_runner(model_dir, options, calibration_examples)
    decoder = TransducerDecoder(runner.pipeline, "serving_default" in runner.signatures)
    return SpeechSession(runner, decoder, limits, batch_size=options.batch_size)


def limits_of(pipeline: Mapping, options: RunnerOptions) -> AudioLimits:
    """Gives the limits of the sounds that a model takes."""
    return AudioLimits(
        rate_hz=pipeline["sample_rate_hz"],
        max_seconds=options.max_seconds or pipeline["max_seconds"],
    )


def calibration_examples(
    pipeline: Mapping, data_dir: Path, num_samples: int, judged: bool
) -> Examples:
    """Reads utterances to calibrate with; see `tools.families.Family`."""
    limits = limits_of(pipeline, RunnerOptions())
    decoder = TransducerDecoder(pipeline, in_graph=False)
    return read_examples(data_dir, num_samples, limits, judged, decoder=decoder)
