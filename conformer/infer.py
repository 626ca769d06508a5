"""Recognizes sound files, folders, or a LibriSpeech-layout corpus with an exported Conformer."""

import math
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from tqdm import tqdm

from tools.config.command_line import CommandLine, run
from tools.conversion.quantization import Examples
from tools.conversion.saved_model import read_pipeline
from tools.errors import UserError
from tools.inference.flags import (
    add_inference_flags,
    open_runner,
    restrict_devices,
    share,
    spread,
)
from tools.inference.report import (
    SpeechRow,
    Stopwatch,
    runner_facts,
    speech_speed,
    write_report,
)
from tools.inference.runner import Runner, answer
from tools.speech.audio import AudioError, AudioLimits, probe
from tools.speech.corpus import SUFFIXES, TRANSCRIPT_SUFFIX, Utterance, read_librispeech
from tools.speech.scoring import score

BUNDLED_MODEL = Path(__file__).resolve().parent / "pretrained" / "digits"


def command_line() -> CommandLine:
    """The program's flags."""
    flags = CommandLine(
        "conformer/infer.py",
        "Recognizes sound files or folders, or recognizes and scores a corpus.",
        "[FLAGS] [FILE|FOLDER ...]",
    )
    add_inference_flags(flags)
    return flags


def find_utterances(
    paths: list[str], limits: AudioLimits
) -> tuple[list[Utterance], list[tuple[str, str]]]:
    """Lists the sounds behind files and folders.

    Returns:
        The utterances, and of folders the `(path, reason)` of what is skipped.

    Raises:
        AudioError: a file named on the command line cannot be used.
        UserError: a folder holds no sound.
    """
    utterances, skipped = [], []
    for path in map(Path, paths):
        found = [path]
        if path.is_dir():
            files = (p for p in sorted(path.rglob("*")) if not p.name.startswith("."))
            found = [p for p in files if p.suffix.lower() in SUFFIXES and p.is_file()]
            if not found:
                raise UserError.expected(
                    f"sound files ({', '.join(sorted(SUFFIXES))}) in {path}",
                    "none",
                    "Choose another folder",
                )
        for file in found:
            try:
                info = probe(str(file), limits)
            except AudioError as error:
                if not path.is_dir():
                    raise
                skipped.append((str(file), error.reason))
                continue
            utterances.append(
                Utterance(
                    utterance_id=file.stem,
                    path=str(file),
                    num_samples=info.num_samples,
                    duration_seconds=info.duration_seconds,
                    transcript="",
                    # The same values as in the graph, where a damaged FLAC makes the decoder print.
                    decoder="python",
                )
            )
    return utterances, skipped


def recognize(
    runner: Runner,
    utterances: list[Utterance],
    limits: AudioLimits,
    batch_size: int,
    warmup_count: int,
) -> tuple[dict[int, str], dict[int, str], Stopwatch]:
    """Runs utterances, longest first, so that a batch holds little padding.

    Returns:
        Texts by index, reasons of dropped utterances by index, and the times of recognition.
    """
    # TensorFlow's input pipeline is imported only now: a wrong file name should answer at once.
    from conformer.input_pipeline import evaluation_dataset

    order = sorted(range(len(utterances)), key=lambda i: -utterances[i].num_samples)
    batch_size = max(1, min(batch_size, len(order)))
    batches = evaluation_dataset([utterances[i] for i in order], batch_size, limits)
    texts, reasons, watch = {}, {}, Stopwatch()
    one_batch = len(utterances) <= batch_size
    with tqdm(
        total=len(utterances), unit="utterance", file=sys.stderr, delay=2, disable=one_batch
    ) as bar:
        for number, batch in enumerate(batches.as_numpy_iterator()):
            inputs = {"waveforms": batch["waveforms"], "lengths": batch["lengths"]}
            said = np.full(len(batch["index"]), b"", object)
            if batch["lengths"].any():  # else there is no sound in it
                if number == 0:
                    with watch.excluded():
                        for _ in range(warmup_count):
                            runner.run(inputs)
                with watch.running():
                    said = runner.run(inputs)["text"]
            rows = zip(batch["index"], batch["lengths"], batch["reason"], said, strict=True)
            for index, length, reason, text in rows:
                if length > 0:
                    texts[order[index]] = text.decode()
                else:
                    reasons[order[index]] = reason.decode()
            bar.update(len(batch["index"]))
    return texts, reasons, watch


def examples(pipeline: dict, data_dir: Path, num_samples: int, judged: bool) -> Examples:
    """Reads utterances to calibrate with; see `tools.inference.flags.family`."""
    from conformer.input_pipeline import evaluation_dataset

    limits = AudioLimits(rate_hz=pipeline["sample_rate_hz"], max_seconds=pipeline["max_seconds"])
    if not data_dir.exists() or next(data_dir.rglob(f"*{TRANSCRIPT_SUFFIX}"), None) is not None:
        utterances = read_librispeech(data_dir, (), limits).utterances
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
        recognize_batch = answer(run, pipeline)
        texts = [recognize_batch(batches[number])["text"][0].decode() for number in numbers]
        return 1.0 - score([references[number] for number in numbers], texts).wer

    return Examples(batches, accuracy if judged else None)


def main(argv: list[str]) -> int:
    """Runs the program."""
    values, paths = command_line().parse(argv)
    if bool(paths) == bool(values.data_dir):
        raise UserError.expected(
            "either files and folders or --data_dir",
            "both" if paths else "neither",
            "Name a sound file, or a corpus with --data_dir",
        )
    if values.batch_size < 1 or values.warmup_count < 0:
        raise UserError.expected(
            "--batch_size >= 1 and --warmup_count >= 0",
            f"{values.batch_size} and {values.warmup_count}",
            "Correct the flag",
        )
    if values.max_seconds is not None and not 0 < values.max_seconds < math.inf:
        raise UserError.expected("--max_seconds > 0", values.max_seconds, "Correct the flag")
    if not all(paths):
        raise UserError.expected("names of files and folders", "an empty one", "Correct it")
    restrict_devices(values)
    model_dir = values.native_savedmodel_dir or BUNDLED_MODEL
    pipeline = read_pipeline(model_dir)
    limits = AudioLimits(
        rate_hz=pipeline["sample_rate_hz"],
        max_seconds=values.max_seconds or pipeline["max_seconds"],
    )
    skipped: list[tuple[str, str]] = []
    if paths:
        utterances, skipped = find_utterances(paths, limits)
    else:
        manifest = read_librispeech(values.data_dir, (), limits)
        utterances = manifest.utterances
        skipped = [(detail, why) for why, details in manifest.skipped.items() for detail in details]
    utterances = share(utterances, values.data_ratio) if utterances else []
    runner = open_runner(values, model_dir)
    texts, reasons, watch = recognize(
        runner, utterances, limits, values.batch_size, values.warmup_count
    )
    skipped += [(utterances[index].path, reason) for index, reason in reasons.items()]
    rows = [
        SpeechRow(u.path, u.duration_seconds, u.transcript if values.data_dir else None, texts[i])
        for i, u in enumerate(utterances)
        if i in texts
    ]
    if rows and not values.data_dir:
        several = len(utterances) + len(skipped) > 1
        for row in rows:
            print(f"{row.path}\t{row.text}" if several else row.text)
    named = {str(Path(path)) for path in paths}
    unusable = [f"{path} ({reason})" for path, reason in skipped if path in named]
    if unusable or not rows:
        raise UserError.expected(
            "sound that can be decoded",
            ", ".join(unusable) or "; ".join(f"{path} ({reason})" for path, reason in skipped[:5]),
            "Check the file",
        )
    summary = summarize(rows, skipped, watch, values.batch_size, runner)
    if values.result_path:
        write_report(Path(values.result_path), summary, rows)
    show(summary, skipped)
    return 0


def summarize(rows, skipped, watch: Stopwatch, batch_size: int, runner: Runner) -> dict:
    """The report's numbers; error rates are null where there are no transcripts."""
    rates = dict.fromkeys(("wer", "cer", "substitutions", "deletions", "insertions"))
    if rows[0].reference is not None:
        result = score([row.reference for row in rows], [row.text for row in rows])
        rates = {name: getattr(result, name) for name in rates}
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


def show(summary: dict, skipped: list[tuple[str, str]]) -> None:
    """Writes the summary to stderr, for people."""
    if summary["wer"] is not None:
        print(
            f"WER {summary['wer']:.2%}, CER {summary['cer']:.2%} "
            f"({summary['substitutions']} substitutions, {summary['deletions']} deletions, "
            f"{summary['insertions']} insertions)",
            file=sys.stderr,
        )
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


if __name__ == "__main__":
    run(main)
