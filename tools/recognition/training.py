"""The body of the speech families' training programs."""

import dataclasses
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from tools.config.command_line import CommandLine
from tools.config.loader import to_yaml
from tools.errors import UserError
from tools.files import write_text
from tools.recognition.task import SpeechTask
from tools.training import distributed
from tools.training.checkpoint import Checkpoint, RunFolders
from tools.training.distributed import Processes, from_first_rank
from tools.training.loop import LoopOptions, train
from tools.training.run_log import provenance
from tools.training.task import Position, Shard

PROJECT = Path(__file__).resolve().parent.parent.parent

# Flags that are short names of config keys; one that is not given leaves the YAML alone.
_CONFIG_FLAGS = {
    "data_dir": "data.data_dir",
    "batch_size": "training.batch_size",
    "epochs": "training.num_epochs",
    "seed": "training.seed",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingProgram:
    """A family's training program.

    Attributes:
        name: of the file.
        description: what `--help` begins with.
        default_config: file under `configs/`.
        pretrained_help: what `--pretrained` takes.
        load_config: of a YAML file and values by dotted key; the config has the sections `data`
            and `training`.
        make_task: of the config, the processes, `--pretrained` ("" without), the checkpoint that
            continues, and whether there will be evaluation.
    """

    name: str
    description: str
    default_config: str
    pretrained_help: str
    load_config: Callable[[str | Path, Mapping[str, object]], Any]
    make_task: Callable[[Any, Processes, str, Checkpoint | None, bool], SpeechTask]

    def command_line(self) -> CommandLine:
        """The program's flags."""
        flags = CommandLine(self.name, self.description)
        flags.string("config", None, "YAML file.", default_text=Path(self.default_config).name)
        flags.string(
            "data_dir", None, "Root of the corpus.", default_text="$DATA_DIR, else the YAML"
        )
        flags.integer("batch_size", None, "Utterances of one process's batch.")
        flags.integer("epochs", None, "Passes over the training set.")
        flags.integer("steps", 0, "Ends after so many steps; 0: all epochs.")
        flags.string("pretrained", None, self.pretrained_help)
        flags.boolean("mxp", None, "Mixed precision in float16 (True) or float32 (False).")
        flags.boolean("use_horovod", None, "Several processes.", default_text="found out by itself")
        flags.boolean(
            "use_gpu", None, "Insist on GPUs, or hide them.", default_text="where there are some"
        )
        flags.boolean("use_profiler", False, "Traces steps 2 to 7 for TensorBoard.")
        flags.boolean("skip_eval", False, "Leaves the evaluation out.")
        flags.boolean("eval_at_start", False, "Evaluates once before the first step.")
        flags.string("output_dir", None, "Run directory.", default_text="runs/CONFIG-DATE")
        flags.boolean("resume", False, "Continues the run in --output_dir.")
        flags.integer("seed", None, "Of weights, shuffling, augmentation and dropout.")
        flags.boolean(
            "dry_run", False, "Prints shapes, parameters, steps and the config, then ends."
        )
        flags.settings()
        return flags

    def main(self, argv: list[str]) -> int:
        """Runs the program."""
        values, rest = self.command_line().parse(argv)
        if rest:
            raise UserError.expected("flags only", " ".join(rest), "See --help")
        if values.steps < 0:
            raise UserError.expected("--steps >= 0", values.steps, "Correct the flag")
        values.config = values.config or PROJECT / "configs" / self.default_config
        config = self._config(values)
        processes = distributed.start(values.use_horovod)
        logging.basicConfig(
            level=logging.INFO if processes.rank == 0 else logging.WARNING,
            format="%(message)s",
            stream=sys.stderr,
        )
        logging.info(distributed.claim_devices(processes, values.use_gpu))
        if config.training.deterministic:
            tf.keras.utils.set_random_seed(config.training.seed)
            tf.config.experimental.enable_op_determinism()
        directory = None if values.dry_run else run_directory(values, processes)
        folders = None if values.dry_run else RunFolders.inside(directory)
        resumed = folders.store().latest() if values.resume and folders else None
        pretrained = values.pretrained or ""
        task = self.make_task(config, processes, pretrained, resumed, not values.skip_eval)
        if values.dry_run:
            if processes.rank == 0:
                print(describe(task, config, processes))
            return 0
        from_first_rank(processes, lambda: prepare_directory(directory, task))
        logging.info("run directory: %s", directory)
        options = LoopOptions(
            resumed=resumed,
            max_steps=values.steps,
            skip_eval=values.skip_eval,
            eval_at_start=values.eval_at_start,
            use_profiler=values.use_profiler,
        )
        results = train(task, config.training, processes, folders, options)
        if processes.rank == 0:
            print(json.dumps(results))
        return 0

    def _config(self, values: SimpleNamespace):
        """Merges command line over YAML over defaults; DATA_DIR fills in for both."""
        overrides = dict(values.set)
        for flag, key in _CONFIG_FLAGS.items():
            if getattr(values, flag) is not None:
                overrides[key] = getattr(values, flag)
        if values.mxp is not None:
            overrides["training.precision"] = "mixed_float16" if values.mxp else "float32"
        config = self.load_config(values.config, overrides)
        if not config.data.data_dir:
            data = dataclasses.replace(config.data, data_dir=os.environ.get("DATA_DIR", ""))
            config = dataclasses.replace(config, data=data)
        if not config.data.data_dir:
            raise UserError.expected(
                "a corpus", "none", "Give --data_dir, or set DATA_DIR in env.sh and source it"
            )
        return config


def run_directory(values: SimpleNamespace, processes: Processes) -> Path:
    """Settles on the run directory, the same on every process."""
    name = f"{Path(values.config).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    chosen = values.output_dir or str(PROJECT / "runs" / name)
    directory = Path(processes.broadcast_object(chosen)).resolve()
    has_checkpoints = any(directory.glob("checkpoints/step-*"))
    if has_checkpoints and not values.resume:
        raise UserError.expected(
            "an --output_dir without checkpoints", directory, "Add --resume or choose another"
        )
    if values.resume and not has_checkpoints:
        raise UserError.expected(
            "an --output_dir with checkpoints to --resume", directory, "Leave --resume out"
        )
    return directory


def prepare_directory(directory: Path, task: SpeechTask) -> None:
    """Writes what the run is made with, before its first step."""
    files = {
        **task.assets,
        "versions.json": json.dumps(provenance(), indent=1),
        "skipped.tsv": "\n".join(["REASON\tDETAIL", *task.skipped, ""]),
    }
    for name, text in files.items():
        write_text(directory / name, text)


def describe(task: SpeechTask, config, processes: Processes) -> str:
    """What --dry_run prints."""
    shard = Shard(processes.rank, processes.size, config.training.batch_size)
    data = task.train_data(shard, Position(), config.training.num_epochs)
    batch = next(iter(data.dataset))
    lines = [f"{name}: {value.dtype.name} {tuple(value.shape)}" for name, value in batch.items()]
    lines += [
        f"logits: {tuple(task.example_logits(batch).shape)}",
        f"parameters: {task.model.count_params():,}",
        f"vocabulary: {task.vocabulary_size}",
        f"steps per epoch: {data.num_steps(0)}",
        f"global batch: {shard.global_batch_size}",
        *task.report,
        to_yaml(task.config),
    ]
    return "\n".join(lines)
