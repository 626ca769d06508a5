"""Utterances to calibrate a converted recognizer and to measure its accuracy."""

import sys
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from tools.conversion.protocol import Examples
from tools.errors import UserError
from tools.inference.selection import spread
from tools.recognition.decoders import Decoder
from tools.recognition.sounds import find_utterances
from tools.speech.audio import AudioLimits
from tools.speech.corpus import TRANSCRIPT_SUFFIX, has_transcripts, read_corpus
from tools.speech.reading import read_batches
from tools.speech.scoring import score
from tools.speech.tables import TABLE_NAME
from tools.speech.transcripts import normalize_transcript


def read_examples(
    data_dir: Path,
    num_samples: int,
    limits: AudioLimits,
    judged: bool,
    *,
    decoder: Decoder,
    normalize: Callable[[str], str] = normalize_transcript,
) -> Examples:
    """Reads calibration utterances; see `tools.families.Family.calibration_examples`.

    Args:
        data_dir: a corpus; if `judged` is False, any folder of sounds.
        num_samples: number of utterances, taken at equal distances over the corpus.
        limits: lengths and rates that the model accepts.
        judged: whether the caller also measures accuracy on the utterances.
        decoder: decoder of the model's outputs.
        normalize: function that normalizes transcripts for the model's vocabulary.

    Raises:
        UserError: there are no transcripts although `judged` is set, or no sound can be decoded.
    """
    if not data_dir.exists() or has_transcripts(data_dir):
        utterances = read_corpus(data_dir, (), limits, normalize=normalize).utterances
    elif judged:
        raise UserError.expected(
            f"transcripts (*{TRANSCRIPT_SUFFIX}, or a table {TABLE_NAME}) in "
            "--calibration_data_dir",
            data_dir,
            "Add transcripts",
        )
    else:
        utterances, _ = find_utterances([str(data_dir)], limits)
    chosen, batches, references = spread(utterances, num_samples), [], []
    data = read_batches(chosen, 1, limits)
    bar = tqdm(data, "reading", len(chosen), unit="utterance", file=sys.stderr, delay=2)
    for batch in bar:
        if batch.lengths.any():
            batches.append(batch.inputs)
            references.append(chosen[batch.indices[0]].transcript)
    if not batches:
        raise UserError.expected(
            f"sound that can be decoded in {data_dir}", "none", "Choose another folder"
        )

    def accuracy(run, numbers):
        answers = (decoder.answer(run, batches[number]) for number in numbers)
        said = [decoder.transcriptions(outputs)[0].text for outputs in answers]
        return 1.0 - score([references[number] for number in numbers], said).wer

    return Examples(batches, accuracy if judged else None)
