"""Writes a corpus in LibriSpeech layout as raw batches of waveforms."""

import functools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not __package__:  # started by its path: import from the checkout that contains this file
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

import numpy as np
from tqdm import tqdm

from tools.amounts import counted
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import new_folder, one_line, write_text
from tools.ranges import check_ranges
from tools.speech.audio import AudioError, AudioLimits, read
from tools.speech.corpus import Utterance, read_corpus
from tools.speech.transcripts import normalize_transcript
from wav2vec2.config import PreprocessingConfig
from wav2vec2.tensors import (
    LENGTHS_FILE,
    TEXTS_FILE,
    Preparation,
    check_place,
    map_file,
    name_of,
    write_json,
)


def batches_of(
    utterances: Sequence[Utterance], batch_size: int, sample_length: int, only_whole: bool
) -> Iterator[tuple[int, list[Utterance]]]:
    """Batches utterances that are padded to the same multiple of `sample_length`.

    Args:
        utterances: the utterances.
        batch_size: number of utterances in a batch.
        sample_length: rows are padded to a multiple of this number of samples.
        only_whole: whether to leave out batches with fewer than `batch_size` rows.

    Yields:
        The number of samples of a row, and the utterances of a batch in order. Batches with
        shorter rows come first.
    """
    sizes = [-(-x.num_samples // sample_length) * sample_length for x in utterances]
    for size in sorted(set(sizes)):
        rows = [x for x, own in zip(utterances, sizes, strict=True) if own == size]
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            if len(batch) == batch_size or not only_whole:
                yield size, batch


def moments(waveform: np.ndarray) -> tuple[float, float]:
    """Returns the mean and the standard deviation of a waveform, for normalization."""
    mean = waveform.mean(dtype=np.float64)
    variance = np.square(waveform - mean).mean() + PreprocessingConfig().variance_epsilon
    return float(mean), float(np.sqrt(variance))


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    flags = CommandLine(
        "wav2vec2.preprocess",
        "Writes a corpus as raw batches of waveforms, and file map and transcripts to DATA.",
        "--input=LIBRISPEECH --batch_size=N --output=DATA/bin_om_input/bsN [FLAGS]",
        example="--input=LibriSpeech/test-clean --batch_size=8 --output=data/bin_om_input/bs8",
    )
    flags.group("Input")
    about = "Folder of the corpus, or of a split of it."
    flags.string("input", None, about, default_text=REQUIRED)
    flags.number("max_seconds", 35.0, "Leaves out longer utterances.")
    flags.group("Output")
    flags.string("output", None, "Folder to write the batches to.", default_text=REQUIRED)
    flags.string("data_path", None, "Folder DATA.", default_text="two folders above --output")
    flags.integer("batch_size", 1, "Number of utterances in a batch.")
    flags.group("Preprocessing")
    about = "Pads waveforms to a multiple of this many samples."
    flags.integer("sample_length", 100000, about)
    about = "Scales each waveform to zero mean and unit variance, as most checkpoints expect."
    flags.boolean("normalize", True, about)
    about = "Leaves out longer utterances and a last, smaller batch, as the original does."
    flags.boolean("seed_mode", False, about)
    about = "Sample rate of the model, to which sounds are resampled."
    flags.integer("sample_rate_hz", 16000, about)
    values, rest = flags.parse(argv)
    if rest or not values.input or not values.output:
        raise UserError.expected(
            "--input LIBRISPEECH --output FOLDER", " ".join(argv) or "nothing", "See --help"
        )
    if not 0 < values.max_seconds < math.inf:
        raise UserError.expected("--max_seconds > 0", values.max_seconds, "Correct --max_seconds")
    if values.batch_size < 1 or not 400 <= values.sample_length <= 10**7:
        raise UserError.expected(
            "--batch_size >= 1 and --sample_length of 400 to 10000000",
            f"{values.batch_size} and {values.sample_length}",
            "Correct the values",
        )
    output = Path(values.output)
    data = Path(values.data_path) if values.data_path else output.absolute().parent.parent
    check_place(output, LENGTHS_FILE, "output")
    check_ranges(PreprocessingConfig(values.sample_rate_hz))
    limits = AudioLimits(rate_hz=values.sample_rate_hz, max_seconds=values.max_seconds)
    # Keep upper and lower case; postprocess converts transcripts to the case of the model.
    as_written = functools.partial(normalize_transcript, case=str)
    manifest = read_corpus(values.input, (), limits, normalize=as_written)
    utterances, num_skipped = [], manifest.num_skipped
    for utterance in manifest.utterances:
        if values.seed_mode and utterance.num_samples > values.sample_length:
            num_skipped += 1
        else:
            utterances.append(utterance)
    names, lengths, means, deviations, texts = {}, {}, {}, {}, []
    with (
        new_folder(output, replace=True) as folder,
        tqdm(total=len(utterances), unit="utterance", file=sys.stderr, delay=2) as bar,
    ):
        batches = batches_of(utterances, values.batch_size, values.sample_length, values.seed_mode)
        for size, batch in batches:
            sounds = []
            for utterance in batch:
                bar.update()
                try:
                    sound = read(utterance.path, limits)
                except AudioError as error:
                    num_skipped += 1
                    print(f"skipped {one_line(utterance.path)}: {error.reason}", file=sys.stderr)
                    continue
                sounds.append(
                    (utterance, sound, moments(sound) if values.normalize else (0.0, 1.0))
                )
            if not sounds:
                continue
            name = f"batch_{len(names)}"
            rows = np.zeros((len(sounds), size), "<f4")
            for row, (_, sound, (mean, deviation)) in zip(rows, sounds, strict=True):
                row[: len(sound)] = (sound - mean) / deviation
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
            names[name] = [utterance.utterance_id for utterance, _, _ in sounds]
            lengths[name] = [len(sound) for _, sound, _ in sounds]
            means[name], deviations[name] = map(list, zip(*(x for *_, x in sounds), strict=True))
            texts += [f"{x.utterance_id} {x.transcript}\n" for x, _, _ in sounds]
        if not names:
            raise UserError.expected(
                f"a batch of {counted(values.batch_size, 'utterance')}",
                manifest.summary(),
                "Add utterances",
            )
        write_json(folder / LENGTHS_FILE, lengths)
        Preparation(values.sample_rate_hz, name_of(names), means, deviations).write(folder)
    write_json(data / map_file(values.batch_size), names)
    write_text(data / TEXTS_FILE, "".join(texts))
    print(
        f"{counted(sum(map(len, names.values())), 'utterance')} in "
        f"{counted(len(names), 'file')} of {output}; {num_skipped} skipped",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run(main)
