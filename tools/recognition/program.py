"""The run of a program that recognizes: batches through a model, texts, scores and speed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tools.conversion.quantization import Examples, Run
from tools.errors import UserError
from tools.files import check_writable, write_text
from tools.inference.flags import spread
from tools.inference.report import (
    SpeechRow,
    Stopwatch,
    runner_facts,
    speech_speed,
    write_report,
)
from tools.inference.runner import Runner
from tools.recognition.sounds import Skipped, find_utterances
from tools.speech.audio import AudioError, AudioLimits
from tools.speech.corpus import TRANSCRIPT_SUFFIX, Utterance, read_librispeech
from tools.speech.scoring import score
from tools.speech.timestamps import Word
from tools.speech.transcripts import normalize_transcript

Inputs = Mapping[str, np.ndarray]  # `waveforms` [B, S] and `lengths` [B]


class Transcript(NamedTuple):
    """What a recognizer heard in one utterance.

    Attributes:
        text: of its usual decoding.
        beam_text: of a beam search, where there was one.
        words: with their times, where they were asked for.
    """

    text: str
    beam_text: str | None = None
    words: Sequence[Word] = ()


@dataclass(frozen=True, slots=True)
class Recognizer:
    """A model with a way to decode it.

    Attributes:
        runner: what runs it.
        limits: which sounds it takes.
        transcribe: a padded batch to its transcripts.
        of_long: a sound longer than `max_seconds_at_once`.
        max_seconds_at_once: of one row of a batch; None: as the limits have it.
    """

    runner: Runner
    limits: AudioLimits
    transcribe: Callable[[Inputs], Sequence[Transcript]]
    of_long: Callable[[Utterance], Transcript] | None = None
    max_seconds_at_once: float | None = None

    def is_long(self, utterance: Utterance) -> bool:
        """Whether a sound is to be taken in pieces."""
        at_once = self.max_seconds_at_once
        return at_once is not None and utterance.num_samples > round(at_once * self.limits.rate_hz)


def recognize(
    recognizer: Recognizer, utterances: list[Utterance], batch_size: int, warmup_count: int
) -> tuple[dict[int, Transcript], dict[int, str], Stopwatch]:
    """Runs utterances, longest first, so that a batch holds little padding.

    Returns:
        Transcripts by index, reasons of dropped utterances by index, and the times of recognition.
    """
    # TensorFlow's input pipeline is imported only now: a wrong file name should answer at once.
    from tools.speech.batches import evaluation_dataset

    order = sorted(range(len(utterances)), key=lambda i: -utterances[i].num_samples)
    long = [index for index in order if recognizer.is_long(utterances[index])]
    order = order[len(long) :]
    batch_size = max(1, min(batch_size, len(order)))
    batches = evaluation_dataset([utterances[i] for i in order], batch_size, recognizer.limits)
    transcripts: dict[int, Transcript] = {}
    reasons, watch = {}, Stopwatch()
    one_batch = len(utterances) <= batch_size and not long
    with tqdm(
        total=len(utterances), unit="utterance", file=sys.stderr, delay=2, disable=one_batch
    ) as bar:
        for index in long:
            with watch.running():
                try:
                    transcripts[index] = recognizer.of_long(utterances[index])
                except AudioError as error:
                    reasons[index] = error.reason
            bar.update()
        for number, batch in enumerate(batches.as_numpy_iterator() if order else ()):
            inputs = {"waveforms": batch["waveforms"], "lengths": batch["lengths"]}
            said = [None] * len(batch["index"])
            if batch["lengths"].any():  # else there is no sound in it
                if number == 0:
                    with watch.excluded():
                        for _ in range(warmup_count):
                            recognizer.transcribe(inputs)
                with watch.running():
                    said = recognizer.transcribe(inputs)
            rows = zip(batch["index"], batch["lengths"], batch["reason"], said, strict=True)
            for index, length, reason, transcript in rows:
                if length > 0:
                    transcripts[order[index]] = transcript
                else:
                    reasons[order[index]] = reason.decode()
            bar.update(len(batch["index"]))
    return transcripts, reasons, watch


def run_recognizer(
    recognizer: Recognizer,
    values: SimpleNamespace,
    paths: list[str],
    utterances: list[Utterance],
    skipped: Skipped,
) -> int:
    """Recognizes utterances, prints texts or words, and writes the report.

    Args:
        recognizer: what does it.
        values: of the flags of `tools.inference.flags`, and `timestamps` where there are any.
        paths: files and folders of the command line.
        utterances: what they hold, or the data set.
        skipped: what was left out already.

    Raises:
        UserError: nothing of it can be used, or one of the files cannot.
    """
    if values.result_path:
        check_writable(Path(values.result_path))
    transcripts, reasons, watch = recognize(
        recognizer, utterances, values.batch_size, values.warmup_count
    )
    skipped = skipped + [(utterances[index].path, reason) for index, reason in reasons.items()]
    numbers = [index for index in range(len(utterances)) if index in transcripts]
    rows = [
        SpeechRow(
            path=utterances[index].path,
            duration_seconds=utterances[index].duration_seconds,
            reference=utterances[index].transcript if values.data_dir else None,
            text=transcripts[index].text,
            beam_text=transcripts[index].beam_text,
        )
        for index in numbers
    ]
    words = [(utterances[index].path, transcripts[index].words) for index in numbers]
    if rows and not values.data_dir:
        _print_texts(rows, words, values, several=len(utterances) + len(skipped) > 1)
    named = {str(Path(path)) for path in paths}
    unusable = [f"{path} ({reason})" for path, reason in skipped if path in named]
    if unusable or not rows:
        raise UserError.expected(
            "sound that can be decoded",
            ", ".join(unusable) or "; ".join(f"{path} ({reason})" for path, reason in skipped[:5]),
            "Check the file",
        )
    summary = summarize(rows, skipped, watch, values.batch_size, recognizer.runner)
    if values.result_path:
        path = Path(values.result_path)
        write_report(path, summary, rows)
        if getattr(values, "timestamps", False):
            lines = (_word_line(word, path) for path, found in words for word in found)
            write_text(path.with_suffix(".words.tsv"), "PATH\tSTART\tEND\tWORD\n" + "".join(lines))
    show(summary, skipped)
    return 0


def _print_texts(rows, words, values, several: bool) -> None:
    if getattr(values, "timestamps", False):
        for path, found in words:
            print("".join(_word_line(word, path if several else "") for word in found), end="")
        return
    for row in rows:
        text = row.text if row.beam_text is None else row.beam_text
        print(f"{row.path}\t{text}" if several else text)


def _word_line(word: Word, path: str) -> str:
    times = f"{word.start_seconds:.2f}\t{word.end_seconds:.2f}"
    return f"{path}\t{times}\t{word.text}\n" if path else f"{times}\t{word.text}\n"


def read_examples(
    data_dir: Path,
    num_samples: int,
    limits: AudioLimits,
    judged: bool,
    texts: Callable[[Run, Inputs], Sequence[str]],
    normalize: Callable[[str], str] = normalize_transcript,
) -> Examples:
    """Reads utterances to calibrate with; see `tools.inference.flags.family`.

    Args:
        data_dir: a corpus, or where nothing is `judged` any folder of sounds.
        num_samples: how many.
        limits: what the model takes at once.
        judged: whether a model's accuracy on them is to be had.
        texts: what the model says to a batch.
        normalize: makes the transcripts what the model can write.
    """
    from tools.speech.batches import evaluation_dataset

    if not data_dir.exists() or next(data_dir.rglob(f"*{TRANSCRIPT_SUFFIX}"), None) is not None:
        utterances = read_librispeech(data_dir, (), limits, normalize=normalize).utterances
    elif judged:
        raise UserError.expected(
            f"transcripts (*{TRANSCRIPT_SUFFIX}) in --calibration_data_dir", data_dir, "Add them"
        )
    else:
        utterances, _ = find_utterances([str(data_dir)], limits)
    chosen, batches, references = spread(utterances, num_samples), [], []
    data = evaluation_dataset(chosen, 1, limits)
    bar = tqdm(data.as_numpy_iterator(), "reading", len(chosen), unit="utterance", delay=2)
    for batch in bar:
        if batch["lengths"].any():
            batches.append({name: batch[name] for name in ("waveforms", "lengths")})
            references.append(chosen[batch["index"][0]].transcript)
    if not batches:
        raise UserError.expected(
            f"sound that can be decoded in {data_dir}", "none", "Choose another folder"
        )

    def accuracy(run, numbers):
        said = [texts(run, batches[number])[0] for number in numbers]
        return 1.0 - score([references[number] for number in numbers], said).wer

    return Examples(batches, accuracy if judged else None)


def summarize(rows, skipped, watch: Stopwatch, batch_size: int, runner: Runner) -> dict:
    """The report's numbers; error rates are null where there are no transcripts."""
    rates: dict = dict.fromkeys(("wer", "cer", "substitutions", "deletions", "insertions"))
    if rows[0].reference is not None:
        references = [row.reference for row in rows]
        result = score(references, [row.text for row in rows])
        rates = {name: getattr(result, name) for name in rates}
        if rows[0].beam_text is not None:
            found = score(references, [row.beam_text for row in rows])
            rates |= {"beam_wer": found.wer, "beam_cer": found.cer}
    return {
        **rates,
        **speech_speed(watch.seconds, rows),
        **watch.speed(len(rows)),
        "num_utterances": len(rows),
        "num_skipped": len(skipped),
        "batch_size": batch_size,
        "recognition_seconds": watch.seconds,
        **runner_facts(runner),
    }


def show(summary: dict, skipped: Skipped) -> None:
    """Writes the summary to stderr, for people."""
    if summary["wer"] is not None:
        print(
            f"WER {summary['wer']:.2%}, CER {summary['cer']:.2%} "
            f"({summary['substitutions']} substitutions, {summary['deletions']} deletions, "
            f"{summary['insertions']} insertions)",
            file=sys.stderr,
        )
    if "beam_wer" in summary:
        rates = f"WER {summary['beam_wer']:.2%}, CER {summary['beam_cer']:.2%}"
        print(f"beam search: {rates}", file=sys.stderr)
    print(
        f"{summary['num_utterances']} utterances, {summary['audio_seconds']:.2f} s of sound in "
        f"{summary['recognition_seconds']:.3f} s at batch size {summary['batch_size']} "
        f"({summary['mode']}, {summary['backend']}, {summary['precision']}): "
        f"real-time factor {summary['rtf']:.4f}, "
        f"{summary['rtfx']:.1f} x real time, {summary['samples_per_second']:.2f} utterances/s "
        f"({summary['end_to_end_samples_per_second']:.2f} with reading); "
        "loading and warm-up excluded",
        file=sys.stderr,
    )
    for path, reason in skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
