"""Compares speech batches of a fixed number of utterances with batches of a frame budget."""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

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
_TURNS = 20  # parts of an epoch, after each of which the other side continues


class Side(Protocol):
    """Training in a process of its own."""

    def ask(self, method: str, *arguments):
        """Calls a method of `Training`."""


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
        utterances, augment = task.training_set.utterances, config.waveform_augment
        longest = max(u.num_samples for u in utterances) / task.rate_hz
        self._sizes = len(utterances), augment.longest_seconds(longest)
        objective = Objective(task.model, task.loss, task.blocks, lambda samples: 0)
        self._rate, self._num_trained = RATE, 0
        self._next = next(self._batches)
        tensors = {name: x for name, x in self._next.items() if name != "reason"}
        self._names = [*tensors]
        self._step = make_step(objective, config.training, tensors)
        self._run(self._next)  # traces the graph

    def sizes(self) -> tuple[int, float]:
        """Returns the number of utterances, and the seconds of the longest one."""
        return self._sizes

    def train(self, num_utterances: int) -> dict[str, float]:
        """Trains until a number of utterances is reached, counted from the first batch of all.

        Args:
            num_utterances: number after which no more step starts.

        Returns:
            Of this call, `seconds` and `steps`, `utterances`, and `samples` of sound and `padded`
            samples with the padding.
        """
        done = dict.fromkeys(("seconds", "steps", "utterances", "samples", "padded"), 0.0)
        while self._num_trained < num_utterances:
            batch = next(self._batches) if self._next is None else self._next
            self._next = None
            started = time.perf_counter()
            self._run(batch)
            done["seconds"] += time.perf_counter() - started
            rows = int((batch["index"].numpy() >= 0).sum())
            self._num_trained += rows
            done["steps"] += 1
            done["utterances"] += rows
            done["samples"] += int(batch["lengths"].numpy().sum())
            done["padded"] += batch["waveforms"].shape[0] * batch["waveforms"].shape[1]
        return done

    def _run(self, batch: Mapping) -> None:
        float(self._step.accumulate([{n: batch[n] for n in self._names}], self._rate).loss)

    def peak_bytes(self) -> int:
        """Returns the peak resident memory of the process."""
        return peak_resident_bytes()


def without_budget(config: ConformerConfig, batch_size: int) -> ConformerConfig:
    """Returns a config with 8 buckets and batches of a fixed number of utterances."""
    data = {"num_buckets": 8, "num_label_buckets": 1, "max_batch_seconds": 0.0}
    return _changed(config, batch_size, data)


def with_budget(config: ConformerConfig, batch_size: int, longest: float) -> ConformerConfig:
    """Returns a config whose largest batches have the padded length of those without a budget.

    A larger budget needs more memory: another one of the longest utterances would be in a batch.

    Args:
        config: configuration of model, loss and data.
        batch_size: utterances of the batches without a budget.
        longest: seconds of the longest utterance.
    """
    # The next 1/1000 s above, so that training, which rounds down to samples, has the budget.
    budget = math.floor(1000 * batch_size * longest + 1) / 1000
    return _changed(config, _MOST_ROWS, {"max_batch_seconds": budget})


def _changed(config: ConformerConfig, rows: int, data: Mapping) -> ConformerConfig:
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, **data),
        training=dataclasses.replace(config.training, batch_size=rows, num_epochs=1000),
    )


def train_in_turn(sides: Mapping[str, Side], num_utterances: int, epochs: int) -> dict[str, dict]:
    """Trains whole epochs on every side, a part of an epoch at a time.

    Args:
        sides: sides by name.
        num_utterances: utterances of an epoch.
        epochs: number of epochs.

    Returns:
        For each side its `summary` with `peak_bytes`. Each side has then trained on every batch of
        an epoch, the largest one included.
    """
    parts: dict[str, list] = {name: [] for name in sides}
    for turn in tqdm(range(1, _TURNS * epochs + 1), desc="turns", file=sys.stderr):
        for name, side in sides.items():
            parts[name].append(side.ask("train", -(-turn * num_utterances // _TURNS)))
    return {
        name: {**summary(parts[name]), "peak_bytes": side.ask("peak_bytes")}
        for name, side in sides.items()
    }


def summary(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Returns utterances and samples per second, the share of padding, steps and seconds."""
    total = {name: sum(part[name] for part in parts) for name in parts[0]}
    return {
        "utterances_per_second": total["utterances"] / total["seconds"],
        "samples_per_second": total["samples"] / total["seconds"],
        "padding_share": 1.0 - total["samples"] / total["padded"],
        "padded_samples_per_second": total["padded"] / total["seconds"],
        "steps": total["steps"],
        "seconds": total["seconds"],
    }


def _parse(argv: Sequence[str]):
    flags = CommandLine(
        "tools.benchmark.frame_budget",
        "Compares the training speed of a speech Conformer with batches of a fixed number of "
        "utterances in 8 buckets and with batches of a frame budget of the same memory, in whole "
        "epochs and in turn.",
        example="--config=configs/conformer/conformer_s.yml --data_dir=CORPUS --batch_size=4",
    )
    flags.group("Config")
    flags.string("config", None, "YAML config.", default_text="Conformer-S")
    flags.settings()
    flags.group("Input")
    flags.string("data_dir", None, "Root folder of the corpus.", default_text=REQUIRED)
    about = "Utterances of the batches without a budget."
    flags.integer("batch_size", 4, about)
    flags.group("Runtime")
    flags.integer("threads", None, "Threads.", default_text="all cores")
    flags.group("Measurement")
    flags.integer("epochs", 1, "Epochs of each side.")
    flags.group("Output")
    flags.string("json", None, "Report to write.", default_text="none")
    values, rest = flags.parse(argv)
    if rest or min(values.epochs, values.batch_size) < 1:
        raise UserError.expected(
            "flags alone, with --epochs and --batch_size >= 1", " ".join(argv), "See --help"
        )
    if not values.data_dir:
        raise UserError.expected("--data_dir", "none", "Give the root folder of a corpus")
    return values


def main(argv: list[str]) -> int:
    """Runs the program and returns its exit code."""
    values = _parse(argv)
    config = conformer.load_config(values.config, {**values.set, "data.data_dir": values.data_dir})
    if values.threads is not None:
        use_cores(values.threads)
    if values.json:
        check_writable(Path(values.json))
    with contextlib.ExitStack() as stack:

        def opened(config: ConformerConfig) -> OwnProcess:
            side = OwnProcess(Training, config)
            stack.callback(side.close)
            return side

        sides = {"8 buckets": opened(without_budget(config, values.batch_size))}
        num_utterances, longest = sides["8 buckets"].ask("sizes")
        budget = with_budget(config, values.batch_size, longest)
        sides["budget"] = opened(budget)
        report = train_in_turn(sides, num_utterances, values.epochs)
    for name, one in report.items():
        print(
            f"{name}: {one['utterances_per_second']:.2f} utterances/s, padding "
            f"{100 * one['padding_share']:.1f} %, {one['steps']:.0f} steps, "
            f"{one['peak_bytes'] / 2**30:.2f} GiB"
        )
    before, after = report.values()
    ratios = {name: after[name] / before[name] for name in ("utterances_per_second", "peak_bytes")}
    print(
        f"budget of {budget.data.max_batch_seconds:.1f} s against 8 buckets: "
        f"{ratios['utterances_per_second']:.2f} x utterances/s, {ratios['peak_bytes']:.2f} x memory"
    )
    report |= {"budget_seconds": budget.data.max_batch_seconds, "ratios": ratios}
    if values.json:
        write_text(Path(values.json), to_json(report, indent=1))
    return 0


if __name__ == "__main__":
    run(main)
