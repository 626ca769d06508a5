"""Compares speech batches of a fixed number of utterances with batches of a frame budget."""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

# Before any runtime.
from tools.benchmark.turns import use_cores  # isort: skip

from tqdm import tqdm

import conformer
from conformer.config import ConformerConfig
from tools.benchmark.own_process import OwnProcess
from tools.config.command_line import REQUIRED, CommandLine, run
from tools.errors import UserError
from tools.files import check_writable, to_json, write_text
from tools.memory import peak_resident_bytes

_MOST_ROWS = 512  # of a batch with a budget


class Training:
    """Trains a new model on the batches of a corpus, with a new model in every process.

    Args:
        config: configuration of the run.
    """

    def __init__(self, config: ConformerConfig):
        # Here, so that the calling process need not load TensorFlow.
        from conformer.task import ConformerTask
        from tools.recognition.trial import RATE, Objective, make_step
        from tools.training.distributed import SingleProcess
        from tools.training.task import Position, Shard

        task = ConformerTask(config, SingleProcess(), needs_evaluation=False)
        shard = Shard(0, 1, config.training.batch_size)
        self._batches = iter(task.train_data(shard, Position(), config.training.num_epochs).dataset)
        objective = Objective(task.model, task.loss, task.blocks, lambda samples: 0)
        self._rate = RATE
        self._first = next(self._batches)
        tensors = {name: x for name, x in self._first.items() if name != "reason"}
        self._names = [*tensors]
        self._step = make_step(objective, config.training, tensors)

    def train(self, seconds: float) -> dict[str, float]:
        """Trains for some time.

        Args:
            seconds: time after which no more step starts.

        Returns:
            `seconds`, `utterances`, and `samples` of sound and `padded` samples with the padding.
        """
        done = dict.fromkeys(("seconds", "utterances", "samples", "padded"), 0.0)
        while done["seconds"] < seconds:
            batch = next(self._batches) if self._first is None else self._first
            self._first = None
            started = time.perf_counter()
            float(self._step.accumulate([{n: batch[n] for n in self._names}], self._rate).loss)
            done["seconds"] += time.perf_counter() - started
            lengths = batch["lengths"].numpy()
            done["utterances"] += int((lengths > 0).sum())
            done["samples"] += int(lengths.sum())
            done["padded"] += batch["waveforms"].shape[0] * batch["waveforms"].shape[1]
        return done

    def peak_bytes(self) -> int:
        """Returns the peak resident memory of the process."""
        return peak_resident_bytes()


def plans(config: ConformerConfig, batch_size: int, longest: float) -> dict[str, ConformerConfig]:
    """Returns the configs to compare, whose largest batches have the same padded length.

    Args:
        config: configuration of model, loss and data.
        batch_size: utterances of the batches without a budget.
        longest: seconds of the longest utterance.
    """

    def changed(rows: int, **data: float) -> ConformerConfig:
        return dataclasses.replace(
            config,
            data=dataclasses.replace(config.data, **data),
            training=dataclasses.replace(config.training, batch_size=rows, num_epochs=1000),
        )

    return {
        "8 buckets": changed(batch_size, num_buckets=8, num_label_buckets=1, max_batch_seconds=0.0),
        "budget": changed(_MOST_ROWS, max_batch_seconds=batch_size * longest),
    }


def summary(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns utterances and seconds of sound per second, and the share of padding."""
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    return {
        "utterances_per_second": total["utterances"] / total["seconds"],
        "samples_per_second": total["samples"] / total["seconds"],
        "padding_share": 1.0 - total["samples"] / total["padded"],
    }


def _parse(argv: Sequence[str]):
    flags = CommandLine(
        "tools.benchmark.frame_budget",
        "Compares the training speed of a speech Conformer with batches of a fixed number of "
        "utterances in 8 buckets and with batches of a frame budget of the same memory, in turn.",
        example="--config=configs/conformer/conformer_s.yml --data_dir=CORPUS --batch_size=4",
    )
    flags.group("Config")
    flags.string("config", None, "YAML config.", default_text="Conformer-S")
    flags.settings()
    flags.group("Input")
    flags.string("data_dir", None, "Root folder of the corpus.", default_text=REQUIRED)
    about = "Utterances of the batches without a budget."
    flags.integer("batch_size", 4, about)
    about = "Seconds of the longest utterance."
    flags.number("longest", None, about, default_text="data.max_seconds of the config")
    flags.group("Runtime")
    flags.integer("threads", None, "Threads.", default_text="all cores")
    flags.group("Measurement")
    flags.integer("loop", 3, "Rounds, in which the sides run in turn.")
    flags.number("seconds", 60.0, "Seconds of training of each side in a round.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    longest = 1.0 if values.longest is None else values.longest
    numbers = (values.seconds, longest)
    if rest or min(values.loop, values.batch_size) < 1 or not all(0 < x < 1e6 for x in numbers):
        raise UserError.expected(
            "flags alone, with --loop and --batch_size >= 1 and --seconds and --longest above 0",
            " ".join(argv),
            "See --help",
        )
    if not values.data_dir:
        raise UserError.expected("--data_dir", "none", "Give the root folder of a corpus")
    return values


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values = _parse(argv)
    overrides = {**values.set, "data.data_dir": values.data_dir}
    if values.longest is not None:
        overrides["data.max_seconds"] = str(values.longest)
    config = conformer.load_config(values.config, overrides)
    if values.threads is not None:
        use_cores(values.threads)
    if values.json:
        check_writable(Path(values.json))
    sides = {
        name: OwnProcess(Training, one)
        for name, one in plans(config, values.batch_size, config.data.max_seconds).items()
    }
    parts: dict[str, list] = {name: [] for name in sides}
    for side in sides.values():
        side.ask("train", 0.1)  # traces the graph
    for _ in tqdm(range(values.loop), desc="rounds", file=sys.stderr):
        for name, side in sides.items():
            parts[name].append(side.ask("train", values.seconds))
    report = {}
    for name, side in sides.items():
        one = report[name] = {**summary(parts[name]), "peak_bytes": side.ask("peak_bytes")}
        side.close()
        print(
            f"{name}: {one['utterances_per_second']:.2f} utterances/s, padding "
            f"{100 * one['padding_share']:.1f} %, {one['peak_bytes'] / 2**30:.2f} GiB"
        )
    speeds = [one["utterances_per_second"] for one in report.values()]
    print(f"budget against 8 buckets: {speeds[1] / speeds[0]:.2f} x")
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
