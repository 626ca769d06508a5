"""The body of the programs that find the largest frame budget of a config."""

import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tools.amounts import counted
from tools.config.command_line import CommandLine
from tools.config.loader import to_yaml
from tools.config.making_options import from_flags
from tools.errors import UserError
from tools.files import check_writable, write_text
from tools.recognition.budget import (
    Bucket,
    Budget,
    Found,
    buckets_of,
    budget_of,
    find_largest_batches,
)
from tools.recognition.training import RunOptions, TrainingProgram
from tools.recognition.training_data import count_labels
from tools.recognition.trial import Objective, Sizes, run_trial
from tools.training.distributed import SingleProcess
from tools.training.memory import available_bytes, gpu_memory_bytes, peak_within

_GB = 1e9
# Share of the memory that trials may use. The rest is for what a trial does not have: the input
# pipeline, and other processes.
_SHARE = 0.9


@dataclasses.dataclass(frozen=True, slots=True)
class BudgetProgram:
    """A family's program that finds the largest frame budget.

    Attributes:
        name: name of the program's module.
        training: training program of the family.
        make_objective: function of a config and the size of its vocabulary, at the top level of a
            module.
    """

    name: str
    training: TrainingProgram
    make_objective: Callable[[Any, int], Objective]

    def command_line(self) -> CommandLine:
        """Returns the flags of the program."""
        flags = CommandLine(
            self.name,
            "Finds the largest data.max_batch_seconds with which every batch of a corpus fits the "
            "memory of the device, by training steps on noise.",
            example="--data_dir=LibriSpeech --memory_gb=16 --output=budget.yml",
        )
        flags.group("Config")
        default = f"configs/{self.training.default_config}"
        flags.string("config", None, "YAML file of the config.", default_text=default)
        flags.settings()
        flags.group("Input")
        about = "Root folder of the corpus, whose lengths and transcripts are used."
        flags.string("data_dir", None, about, default_text="from the config, else $DATA_DIR")
        flags.group("Output")
        about = "Config to write: the given one with the budget found, for --config of a training."
        flags.string("output", None, about, default_text="none")
        flags.group("Measurement")
        about = "Memory of a training process in 10^9 bytes."
        flags.number(
            "memory_gb", None, about, default_text="90 % of the GPU, or of the available memory"
        )
        flags.integer("most_rows", 512, "Largest number of utterances in a batch.")
        return flags

    def main(self, argv: Sequence[str]) -> int:
        """Runs the program."""
        values, rest = self.command_line().parse(argv)
        memory = values.memory_gb
        if rest or values.most_rows < 1:
            raise UserError.expected(
                "flags alone, with --most_rows >= 1", " ".join(argv), "See --help"
            )
        if memory is not None and not 0 < memory < math.inf:
            raise UserError.expected("--memory_gb above 0", memory, "Correct --memory_gb")
        if values.output:
            check_writable(Path(values.output))
        options = from_flags(RunOptions, values)
        if not options.config:
            options = dataclasses.replace(options, config=self.training.default_path)
        config = self.training.read_config(options)
        use_gpu = bool(tf.config.list_physical_devices("GPU"))
        if use_gpu:
            # TensorFlow reserves the memory of a GPU that it uses: the trials need it.
            tf.config.set_visible_devices([], "GPU")
        if memory is not None:
            limit = int(memory * _GB)
        else:
            limit = int(_SHARE * (gpu_memory_bytes() if use_gpu else available_bytes()))
        buckets, trained, vocabulary_size = self._read(config)
        rate_hz = trained.rate_hz
        print(f"{limit / _GB:.1f} GB for {counted(len(buckets), 'bucket')}", file=sys.stderr)

        def peak_of(bucket: Bucket, rows: int) -> int | None:
            sizes = Sizes(rows, bucket.samples, bucket.labels)
            arguments = (self.make_objective, trained.config, vocabulary_size, sizes)
            return peak_within(limit, run_trial, *arguments, use_gpu=use_gpu)

        with tqdm(desc="trials", file=sys.stderr) as bar:

            def report(bucket: Bucket, rows: int, peak: int | None) -> None:
                bar.update()
                seconds = bucket.samples / rate_hz
                outcome = "does not fit" if peak is None else f"{peak / _GB:.2f} GB"
                tqdm.write(f"{rows} x {seconds:.2f} s: {outcome}", file=sys.stderr)

            found = find_largest_batches(buckets, peak_of, values.most_rows, report)
        budget = budget_of(found, values.most_rows)
        if num_full := sum(one.rows == values.most_rows for one in found):
            print(
                f"{counted(num_full, 'bucket')} with room for --most_rows={values.most_rows}: "
                "raise it to try larger batches.",
                file=sys.stderr,
            )
        lines = table(found, rate_hz)
        print("\n".join(lines))
        keys = settings_of(budget, rate_hz)
        print(*(f"--set {key}={value}" for key, value in keys.items()))
        if values.output:
            overrides = {key: str(value) for key, value in keys.items()}
            config = self.training.load_config(options.config, {**options.set, **overrides})
            about = [f"Frame budget for {limit / _GB:.1f} GB:", *lines]
            comment = "".join(f"# {line}\n" for line in about)
            write_text(Path(values.output), comment + to_yaml(config))
        return 0

    def _read(self, config: Any) -> tuple[list[Bucket], "Trained", int]:
        """Returns the buckets of the corpus, what is trained, and the size of the vocabulary."""
        task = self.training.make_task(config, SingleProcess(), "", None, needs_evaluation=False)
        utterances, encode = task.training_set.utterances, task.training_set.encode
        augment = config.waveform_augment
        seconds = [augment.longest_seconds(u.num_samples / task.rate_hz) for u in utterances]
        num_samples = np.ceil(np.array(seconds) * task.rate_hz).astype(np.int64)
        num_labels = count_labels(encode, tf.constant([u.transcript for u in utterances]))
        buckets = buckets_of(num_samples, num_labels, config.data.num_buckets)
        return buckets, Trained(task.config, task.rate_hz), task.vocabulary_size


@dataclasses.dataclass(frozen=True, slots=True)
class Trained:
    """What is trained.

    Attributes:
        config: config of the task, which may have adopted sizes of a checkpoint.
        rate_hz: sampling rate of the model.
    """

    config: Any
    rate_hz: int


def table(found: Sequence[Found], rate_hz: int) -> list[str]:
    """Returns a table of the largest batches, as lines of text."""
    heads = ("up to s", "labels", "utterances", "rows", "rows x s", "GB")
    rows = [
        (
            f"{one.bucket.samples / rate_hz:.2f}",
            str(one.bucket.labels),
            str(one.bucket.num_utterances),
            str(one.rows),
            f"{one.rows * one.bucket.samples / rate_hz:.1f}",
            f"{one.peak_bytes / _GB:.2f}",
        )
        for one in found
    ]
    return ["  ".join(f"{word:>10}" for word in row) for row in (heads, *rows)]


def settings_of(budget: Budget, rate_hz: int) -> dict[str, float | int]:
    """Returns the keys of the config and their values."""
    return {
        # The next 1/1000 s above, so that training, which rounds down to samples, has the budget.
        "data.max_batch_seconds": (1000 * budget.max_batch_samples // rate_hz + 1) / 1000,
        "training.batch_size": budget.batch_size,
    }
