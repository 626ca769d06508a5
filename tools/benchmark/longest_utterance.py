"""Finds the longest utterance that a speech Conformer trains on within a memory limit."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Before any runtime.
from tools.benchmark.turns import use_cores  # isort: skip

from tqdm import tqdm

import conformer
from conformer.config import ConformerConfig
from tools.benchmark.conformer_step import Batch, OurStep, with_options
from tools.config.command_line import CommandLine, run
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.training.memory import largest_fitting, peak_within

# loss.kind and training.rematerialize: the one that takes most memory, and the one with least.
KINDS = (("plain", "none"), ("fused", "blocks"))
_ACCURACY = 0.05


def train_twice(config: ConformerConfig, batch: Batch) -> None:
    """Runs two steps on a batch of noise: the second one still allocates memory."""
    step = OurStep(config, batch)
    for _ in range(2):
        step.train()


def longest_seconds(
    config: ConformerConfig,
    limit_bytes: int,
    *,
    most: int,
    labels_per_second: float,
    vocabulary: int,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[int, int]:
    """Searches for the longest utterance whose training step fits a memory limit.

    Args:
        config: configuration of model, loss and training.
        limit_bytes: memory limit of the process.
        most: longest utterance to try, in seconds.
        labels_per_second: labels of the utterance.
        vocabulary: symbols, the blank included.
        say: function that is called with a line about every trial.

    Returns:
        Whole seconds, or 0 if 1 s does not fit, and the peak memory in bytes.
    """
    peaks = {0: 0}

    def fits(seconds: int) -> bool:
        batch = Batch(1, seconds, max(round(labels_per_second * seconds), 1), vocabulary)
        peak = peak_within(limit_bytes, train_twice, config, batch)
        say(f"{seconds} s: {'does not fit' if peak is None else f'{peak / 1e9:.2f} GB'}")
        if peak is not None:
            peaks[seconds] = peak
        return peak is not None

    found = largest_fitting(fits, most, start=8, accuracy=_ACCURACY)
    return found, peaks[found]


def _parse(argv: Sequence[str]):
    flags = CommandLine(
        "tools.benchmark.longest_utterance",
        "Finds the longest utterance that a speech Conformer trains on within a memory limit, with "
        "the plain loss, and with the fused loss and rematerialized blocks.",
        example="--config=configs/conformer/conformer_l.yml --memory_gb=8 --json=longest.json",
    )
    flags.group("Model")
    flags.string("config", None, "YAML config.", default_text="Conformer-S")
    flags.group("Input")
    flags.number("labels_per_second", 5.0, "Labels of a second of speech.")
    flags.integer("vocabulary", 1000, "Symbols of the vocabulary, the blank included.")
    flags.group("Runtime")
    flags.integer("threads", None, "Threads.", default_text="all cores")
    flags.group("Measurement")
    flags.number("memory_gb", 8.0, "Memory limit of the process in 10^9 bytes.")
    flags.integer("most_seconds", 1000, "Longest utterance to try.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    if rest or values.most_seconds < 1 or not 0 <= values.labels_per_second <= 1000:
        raise UserError.expected(
            "flags alone, with --most_seconds >= 1 and --labels_per_second from 0 to 1000",
            " ".join(argv),
            "See --help",
        )
    if values.vocabulary < 2:
        raise UserError.expected("--vocabulary >= 2", values.vocabulary, "Correct --vocabulary")
    if not 0 < values.memory_gb < 1e6:
        raise UserError.expected("--memory_gb above 0", values.memory_gb, "Correct --memory_gb")
    return values


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values = _parse(argv)
    config = conformer.load_config(values.config)
    if values.threads is not None:
        use_cores(values.threads)
    if values.json:
        check_writable(Path(values.json))
    rows = []
    for loss, rematerialize in KINDS:
        seconds, peak = longest_seconds(
            with_options(config, loss, config.training.precision, rematerialize),
            int(values.memory_gb * 1e9),
            most=values.most_seconds,
            labels_per_second=values.labels_per_second,
            vocabulary=values.vocabulary,
            say=lambda line, loss=loss: tqdm.write(f"{loss}: {line}", file=sys.stderr),
        )
        rows.append(
            {
                "loss": loss,
                "rematerialize": rematerialize,
                "longest_seconds": seconds,
                "peak_bytes": peak,
            }
        )
        print(f"{loss}, rematerialize {rematerialize}: {seconds} s, {peak / 1e9:.2f} GB")
    ratio = rows[-1]["longest_seconds"] / max(rows[0]["longest_seconds"], 1)
    print(f"{ratio:.1f} x longer")
    if values.json:
        report = {"memory_gb": values.memory_gb, "kinds": rows, "ratio": ratio}
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
