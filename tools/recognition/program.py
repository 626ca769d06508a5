"""The part of `infer` that the speech families share: recognition, texts, scores and speed."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tools.amounts import counted
from tools.errors import UserError
from tools.files import check_not_input, check_writable, one_line, result_file, write_text
from tools.inference.options import DataOptions
from tools.inference.report import (
    SpeechRow,
    Stopwatch,
    Times,
    runner_facts,
    skipped_lines,
    speech_speed,
    write_report,
)
from tools.inference.runner import Runner
from tools.recognition.characters import lacking_characters, never_written
from tools.recognition.decoders import Transcription
from tools.recognition.error_rates import error_rates, scored_text
from tools.recognition.outputs import (
    Heard,
    check_outputs,
    n_best_lines,
    show_texts,
    word_line,
    words_wanted,
)
from tools.recognition.ranks import ALONE, Ranks
from tools.recognition.session import SpeechSession
from tools.recognition.sounds import (
    NOT_SOUND,
    Skipped,
    chosen_utterances,
    with_standard_input,
)
from tools.speech.audio import AudioError, AudioLimits, stream
from tools.speech.corpus import Utterance
from tools.speech.reading import read_batches
from tools.speech.tables import TABLE_NAME
from tools.speech.transcripts import normalize_transcript


def recognize(
    session: SpeechSession,
    utterances: list[Utterance],
    *,
    batch_size: int,
    warmup_count: int,
    with_words: bool = False,
    quiet: bool = False,
) -> tuple[dict[int, Transcription], dict[int, str], Stopwatch]:
    """Recognizes utterances in batches, sorted by length to reduce padding.

    Args:
        session: open model.
        utterances: utterances to recognize.
        batch_size: number of utterances in a batch.
        warmup_count: number of runs of the first batch that are not timed. If it is above 0, full
            batches of every padded length also run once before, if the runtime prepares shapes.
        with_words: whether to return words with their times.
        quiet: whether to show no progress bar.

    Returns:
        Transcriptions by index, reasons of dropped utterances by index, and the measured times.
    """
    order = sorted(range(len(utterances)), key=lambda i: -utterances[i].num_samples)
    total_seconds = sum(utterance.duration_seconds for utterance in utterances)
    long = [index for index in order if session.is_long(utterances[index].num_samples)]
    order = order[len(long) :]
    batch_size = max(1, min(batch_size, len(order)))
    transcriptions: dict[int, Transcription] = {}
    reasons, watch = {}, Stopwatch()
    quiet |= len(utterances) <= batch_size and not long
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(
                total=int(total_seconds) + 1,
                bar_format="{l_bar}{bar}| {n:.0f}/{total_fmt} s of sound [{elapsed}<{remaining}]",
                file=sys.stderr,
                delay=2,
                disable=quiet,
            )
        )
        for index in long:
            utterance = utterances[index]
            with watch.running():
                try:
                    reader = stream(utterance.path, session.limits, channel=utterance.channel)
                    with contextlib.closing(reader) as pieces:
                        progress = _progress(pieces, bar, session.limits.rate_hz)
                        transcriptions[index] = session.recognize_long(progress, with_words)
                except AudioError as error:
                    reasons[index] = error.reason
        if warmup_count:
            with watch.excluded():
                lengths = [utterances[index].num_samples for index in order[::batch_size]]
                session.prepare(lengths, batch_size)
        reader = read_batches([utterances[i] for i in order], batch_size, session.limits)
        batches = stack.enter_context(contextlib.closing(reader))
        for number, batch in enumerate(batches):
            said = [None] * len(batch.indices)
            if batch.lengths.any():  # False if no file of the batch can be used
                if number == 0:
                    with watch.excluded():
                        for _ in range(warmup_count):
                            session.recognize(batch.inputs, with_words)
                with watch.running():
                    said = session.recognize(batch.inputs, with_words)
            rows = zip(batch.indices, batch.lengths, batch.reasons, said, strict=True)
            for index, length, reason, heard in rows:
                if length > 0:
                    transcriptions[order[index]] = heard
                else:
                    reasons[order[index]] = reason
                bar.update(utterances[order[index]].duration_seconds)
    return transcriptions, reasons, watch


def _progress(pieces: Iterable[np.ndarray], bar: tqdm, rate_hz: int) -> Iterator[np.ndarray]:
    """Yields the pieces of a sound, and moves a progress bar by their length in seconds."""
    for piece in pieces:
        yield piece
        bar.update(len(piece) / rate_hz)


def run_program(
    open_session: Callable[[], SpeechSession],
    limits: AudioLimits,
    data: DataOptions,
    normalize: Callable[[str], str] = normalize_transcript,
    *,
    ranks: Ranks = ALONE,
) -> int:
    """Recognizes the sounds that the options name, prints texts or words, and writes the report.

    Args:
        open_session: function that opens the model; called after all inputs were found.
        limits: lengths and rates that the model accepts.
        data: sounds to recognize, and files to write.
        normalize: function that normalizes transcripts for the model's vocabulary.
        ranks: processes that divide the sounds. Only the first one prints and writes.

    Returns:
        The exit code, 0.

    Raises:
        UserError: a file that was named cannot be used, no sound can be used, or a result cannot be
            written.
    """
    with contextlib.ExitStack() as stack:

        def inputs() -> tuple[list[Utterance], Skipped, dict[str, str]]:
            if data.result_path:
                path = Path(data.result_path)
                check_writable(path)
                check_writable(result_file(path, ".tsv"))
            paths, names = stack.enter_context(with_standard_input(data.paths))
            utterances, skipped = chosen_utterances(replace(data, paths=paths), limits, normalize)
            # Of the channels of a sound, the first stands for the sound.
            sounds = [x.path for x in utterances if data.channels != "each" or x.channel == 1]
            check_outputs(data, [names.get(path, path) for path in sounds])
            if data.result_path:
                _check_report(data, [utterance.path for utterance in utterances])
            return utterances, skipped, names

        utterances, skipped, names = ranks.from_first_rank(inputs)
        session = stack.enter_context(ranks.in_turn(open_session))
        found = _recognize_share(session, data, utterances, ranks)
        if ranks.is_first:
            _report(session, data, utterances, skipped, found=found, names=names)
    return 0


def _check_report(data: DataOptions, sounds: list[str]) -> None:
    """Checks that no file of the report is a sound or the table of a data set."""
    path, tables = Path(data.result_path), []
    if data.data_dir:
        tables = [data.data_dir, os.path.join(data.data_dir, TABLE_NAME)]
    suffixes = ".json", ".tsv", ".nbest.tsv", ".words.tsv"
    for place in (path, *(result_file(path, suffix) for suffix in suffixes)):
        check_not_input(place, tables + sounds)


@dataclass(frozen=True, slots=True)
class _Found:
    """What the processes recognized.

    Attributes:
        transcripts: transcriptions by index of the utterance.
        reasons: reasons of dropped utterances by index.
        times: measured times.
        num_processes: number of processes that recognized at once.
    """

    transcripts: dict[int, Transcription]
    reasons: dict[int, str]
    times: Times
    num_processes: int = 1


def _recognize_share(
    session: SpeechSession, data: DataOptions, utterances: list[Utterance], ranks: Ranks
) -> _Found:
    """Recognizes the share of this process, and returns what all processes found."""
    order = sorted(range(len(utterances)), key=lambda i: -utterances[i].num_samples)
    own = sorted(ranks.share(order))
    transcripts, reasons, watch = recognize(
        session,
        [utterances[index] for index in own],
        batch_size=data.batch_size,
        warmup_count=data.warmup_count if own else 0,
        with_words=words_wanted(data),
        quiet=not ranks.is_first,
    )
    results = ranks.gather(
        (
            {own[index]: value for index, value in transcripts.items()},
            {own[index]: value for index, value in reasons.items()},
            watch.times,
        )
    )
    return _Found(
        {index: value for found, _, _ in results for index, value in found.items()},
        {index: value for _, found, _ in results for index, value in sorted(found.items())},
        Times.of_ranks([times for *_, times in results]),
        ranks.size,
    )


def _report(
    session: SpeechSession,
    data: DataOptions,
    utterances: list[Utterance],
    skipped: Skipped,
    *,
    found: _Found,
    names: Mapping[str, str],
) -> None:
    """Prints and writes texts, scores and speed. `names` has the names of temporary files."""
    transcripts, reasons = found.transcripts, found.reasons
    if data.data_dir:
        unknown = never_written(session.pipeline["vocabulary"]["surfaces"])
        share, line = lacking_characters((u.transcript for u in utterances), unknown)
        if share:
            print(f"{line}; they count as errors", file=sys.stderr)
    if data.data_dir:  # a part of an utterance cannot be scored
        damaged = {index: heard.damage for index, heard in transcripts.items() if heard.damage}
        reasons = reasons | damaged
        transcripts = {index: x for index, x in transcripts.items() if index not in damaged}
    skipped = skipped + [(utterances[index].path, reason) for index, reason in reasons.items()]
    skipped = [(names.get(path, path), reason) for path, reason in skipped]
    is_labelled = data.channels == "each"
    heard = [
        Heard(names.get(utterance.path, utterance.path), utterance, transcripts[index], is_labelled)
        for index, utterance in enumerate(utterances)
        if index in transcripts
    ]
    rows = [
        SpeechRow(
            path=f"{one.name} channel {one.utterance.channel}" if is_labelled else one.name,
            duration_seconds=one.seconds,
            reference=one.utterance.transcript if data.data_dir else None,
            text=one.transcription.text,
            beam_text=one.transcription.beam_text,
        )
        for one in heard
    ]
    if rows and not (data.data_dir and data.output_dir is None):
        sounds = [one.path for one in utterances if not is_labelled or one.channel == 1]
        sounds += [path for path, reason in skipped if reason != NOT_SOUND]
        several = len(sounds) > 1 or any(Path(path).is_dir() for path in data.paths)
        show_texts(data, heard, several)
    for one in heard:
        for line in one.remarks():
            print(line, file=sys.stderr)
    named = {str(Path(path)) for path in data.paths}
    left_out = [(one_line(path), path in named, reason) for path, reason in skipped]
    unusable = [f"{path} ({reason})" for path, is_named, reason in left_out if is_named]
    lacking = ", ".join(unusable) or "; ".join(f"{path} ({x})" for path, _, x in left_out[:5])
    undecoded = UserError.expected("sound that can be decoded", lacking, "Check the file")
    if not rows:
        raise undecoded
    kind = None
    if rows[0].reference is not None:
        surfaces = session.pipeline["vocabulary"]["surfaces"]
        kind = data.score_text or scored_text((row.reference for row in rows), surfaces)
    summary = summarize(
        rows, skipped, found.times, data.batch_size, runner=session.runner, score_text=kind
    )
    if found.num_processes > 1:
        summary["num_processes"] = found.num_processes
    if data.result_path:
        path = Path(data.result_path)
        write_report(path, {**summary, "skipped": skipped}, rows)
        columns = "PATH\tCHANNEL" if is_labelled else "PATH"
        n_best = [n_best_lines(one.transcription, one.columns(several=True)) for one in heard]
        if any(n_best):
            lines = "".join([f"{columns}\tSCORE\tTEXT\n", *n_best])
            write_text(result_file(path, ".nbest.tsv"), lines)
        if data.timestamps:
            lines = "".join(
                word_line(word, one.columns(several=True))
                for one in heard
                for word in one.transcription.words
            )
            write_text(result_file(path, ".words.tsv"), f"{columns}\tSTART\tEND\tWORD\n{lines}")
    show(summary, skipped)
    if unusable:
        raise undecoded
    damaged = [one for one in heard if one.transcription.damage and one.name in named]
    if damaged:
        received = ", ".join(
            f"{one.label} ({one.transcription.damage} behind {one.seconds:.2f} s)"
            for one in damaged
        )
        raise UserError.expected(
            "sound that can be decoded to its end", received, "Check the file; the rest is printed"
        )


def summarize(
    rows,
    skipped,
    times: Times,
    batch_size: int,
    *,
    runner: Runner,
    score_text: str | None,
) -> dict:
    """Returns the values of the report. Error rates are None without transcripts.

    Args:
        rows: recognized utterances, at least one.
        skipped: skipped files with their reasons.
        times: measured times.
        batch_size: number of utterances in a batch.
        runner: runner of the model, for the facts about backend and precision.
        score_text: see `error_rates`.
    """
    return {
        **error_rates(rows, score_text),
        **speech_speed(times.seconds, rows),
        **times.speed(len(rows)),
        "num_utterances": len(rows),
        "num_skipped": len(skipped),
        "batch_size": batch_size,
        "recognition_seconds": times.seconds,
        **runner_facts(runner),
    }


def show(summary: dict, skipped: Skipped) -> None:
    """Prints the summary and the skipped files to stderr."""
    if summary["wer"] is not None:
        print(
            f"WER {summary['wer']:.2%}, CER {summary['cer']:.2%} "
            f"({counted(summary['substitutions'], 'substitution')}, "
            f"{counted(summary['deletions'], 'deletion')}, "
            f"{counted(summary['insertions'], 'insertion')})",
            file=sys.stderr,
        )
        names = {"raw": "as written", "normalized": "without case and punctuation"}
        pairs = [(names[kind], summary[kind]) for kind in names]
        if summary["raw"] != summary["normalized"]:
            both = "; ".join(f"{x} WER {y['wer']:.2%}, CER {y['cer']:.2%}" for x, y in pairs)
            print(f"{both} (shown above: {names[summary['score_text']]})", file=sys.stderr)
    if "beam_wer" in summary:
        rates = f"WER {summary['beam_wer']:.2%}, CER {summary['beam_cer']:.2%}"
        print(f"beam search: {rates}", file=sys.stderr)
    number = summary.get("num_processes")
    several = f" in each of {number} processes" if number else ""
    print(
        f"{counted(summary['num_utterances'], 'utterance')}, "
        f"{summary['audio_seconds']:.2f} s of sound in {summary['recognition_seconds']:.3f} s "
        f"at batch size {summary['batch_size']}{several} "
        f"({summary['mode']}, {summary['backend']}, {summary['precision']}): "
        f"real-time factor {summary['rtf']:.4f}, "
        f"{summary['rtfx']:.1f} x real time, {summary['samples_per_second']:.2f} utterances/s "
        f"({summary['end_to_end_samples_per_second']:.2f} with reading); "
        "loading and warm-up excluded",
        file=sys.stderr,
    )
    for line in skipped_lines(skipped):
        print(line, file=sys.stderr)
